// text/export.inl.hpp: the bodies of text/export.hpp.
#pragma once
#include <ftlib/core/message.hpp>             // pretty_bytes, pretty_count
#include <ftlib/io/gguf.hpp>                  // GgufWriter
#include <ftlib/io/pages.hpp>                 // release_pages
#include <ftlib/models/kit/gguf_mixture.hpp>  // gguf_types
#include <ftlib/tensor/quantise.hpp>          // quantise_row
#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/set.inl.hpp>    // AdapterSet::merged
#include <ftlib/text/causal_lm.inl.hpp>  // CausalLM
#endif
#include <ftlib/adapters/stack_lora.hpp>  // target_of
#include <ftlib/text/export.hpp>
#include <ftlib/text/tokenizer_gguf.hpp>  // gguf_tokenizer

#include <algorithm>  // std::count_if, std::max_element
#include <memory>     // std::make_unique
#include <ostream>    // std::ostream
#include <set>        // std::set
#include <span>       // std::span
#include <utility>    // std::move

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const GgufReport& r) {
  out << r.path.string() << ": " << pretty_bytes(r.bytes) << ", ";
  const char* comma = "";
  for (const auto& [type, share] : r.types) {
    out << comma << share.tensors << " tensors " << type << " (" << pretty_count(share.parameters) << ')';
    comma = ", ";
  }
  out << '\n';
  if (r.merged) out << "merged: the adapter in use, into " << r.merged << " tensors\n";
  if (r.adapted) out << "adapter: for " << r.adapted << " weights of the base\n";
  if (r.copied) out << "copied: the quantised blocks of " << r.copied << " tensors, as they were\n";
  if (r.requantised)
    out << "quantised again: " << r.requantised
        << " tensors whose files held them quantised already: they lose twice\n";
  if (r.weighed) {
    out << "importance: " << r.weighed << " tensors are quantised by what their channels carry";
    if (r.unweighed) out << "; " << r.unweighed << " experts that no token chose, by all channels alike";
    out << '\n';
  }
  if (r.fallbacks)
    out << "other types: " << r.fallbacks << " tensors have rows that are no whole number of blocks, and fall back\n";
  for (const std::string& note : r.notes) out << "note: " << note << '\n';
  return out;
}

namespace detail {

/// Tensors on their way into a file: any type becomes another, some rows at a time, on the CPU's threads.
class GgufEncoder {
 public:
  GgufEncoder(Executor& pool, GgufWriter& file) : pool_(pool), file_(file) {}

  /// `importance`: of the columns of each of as many equal shares of rows, or null; none: of all alike.
  [[gnu::cold]] void put(const Stored<Cpu>& w, DType type, const std::vector<const float*>& importance = {}) {
    const int64_t cols = w.shape.back(), rows = cols ? w.shape.count() / cols : 0, to_bytes = storage_bytes(type, cols);
    const int64_t step = std::max<int64_t>(1, (int64_t{4} << 20) / std::max<int64_t>(1, cols));
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t n = std::min(step, rows - begin);
      const std::span<const std::byte> from(w.row(begin), static_cast<std::size_t>(n * w.row_bytes()));
      if (w.type == type) {
        file_.put(from);
        release_pages(from);
        continue;
      }
      values_.resize(static_cast<std::size_t>(n * cols));
      encoded_.resize(static_cast<std::size_t>(n * to_bytes));
      parallel_for(pool_, n, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          float* const row = values_.data() + i * cols;
          dequantise_row(w.type, w.row(begin + i), 0, cols, row);
          const auto share = static_cast<std::size_t>((begin + i) * static_cast<int64_t>(importance.size()) / rows);
          quantise_row(type, row, cols, encoded_.data() + i * to_bytes,
                       importance.empty() ? nullptr : importance[share]);
        }
      });
      file_.put(encoded_);
      release_pages(from);
    }
  }

 private:
  Executor& pool_;
  GgufWriter& file_;
  std::vector<float> values_;
  std::vector<std::byte> encoded_;
};

/// In the host's memory, as what a session has in use makes it; a CPU's weights that nothing changes stay where they
/// lie.
template <Scalar T, Device D>
[[gnu::cold]] Stored<Cpu> weight_in_use(CausalLM<T, D>& lm, const Parameter<T, D>& w, const Tensor<T, D>& merged) {
  Context<D>& ctx = lm.context();
  const Tensor<T, D>& value = merged ? merged : w.value;
  if constexpr (std::same_as<D, Cpu>) {
    return value ? as_stored(contiguous(ctx, value)) : w.stored;
  } else {
    const Stored<D> from = value ? as_stored(contiguous(ctx, value)) : w.stored;
    auto [to, bytes] = new_stored(from.type, from.shape);
    ctx.copy_to_host(bytes, from.data, static_cast<std::size_t>(from.bytes()));
    ctx.synchronize();
    return to;
  }
}

/// A stack's A (G R, in) and B (out, R G), as PEFT has them, become what GGUF has for one of its weights: A of all
/// matrices (G, R, in), and of B the weight's own (rows, R), which it stacks as it stacks the weight.
[[gnu::cold]] inline void part_of_pair(const StackPart& part, int64_t rows, Stored<Cpu>& a, Stored<Cpu>& b,
                                       int64_t& rank) {
  const int64_t all = rank, size = storage_bytes(b.type, 1);
  rank /= part.count;
  a.shape = {part.count, rank, a.shape[1]};
  auto [own, to] = new_stored(b.type, {rows, rank});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < rank; ++k)
      to = std::copy_n(b.data + ((part.first + r * part.row_step) * all + k * part.count + part.number) * size, size,
                       to);
  b = own;
}

/// What most of the parameters are, as a number for general.file_type.
[[gnu::cold]] inline uint32_t gguf_file_type(const std::map<DType, GgufReport::Share>& types) {
  const auto most = std::max_element(types.begin(), types.end(), [](const auto& a, const auto& b) {
    return a.second.parameters < b.second.parameters;
  });
  if (most->first == DType::mxfp4) return 38;  // which is no mixture to ask for: nothing is rounded to it here
  for (const GgufMixture& mixture : gguf_mixtures)
    if (mixture.type == most->first) return mixture.number;
  return 0;
}

}  // namespace detail

template <Scalar T, Device D>
[[gnu::cold]] GgufReport save_gguf(CausalLM<T, D>& lm, const std::filesystem::path& path,
                                   const SaveGgufOptions& options) {
  std::error_code error;
  if (std::filesystem::equivalent(path, lm.path(), error))
    throw Error(path.string() + ": is the model's own file", "write to another.");
  GgufReport report{.path = path};
  const bool stored = options.type == "stored";
  const GgufMixture& mixture = gguf_mixture(stored ? "f32" : options.type);
  const GgufDescription model = lm.model().gguf();
  report.notes = model.notes;

  std::map<std::string, Parameter<T, D>*> by_name;
  std::vector<std::string> names;
  for (Parameter<T, D>* w : lm.adapters().base()) {
    by_name[w->name] = w;
    names.push_back(w->name);
  }
  const auto parts = model.map.gguf_parts(
      names, [&](const std::string& name) { return by_name.at(name)->shape(); }, path.string());
  GgufTypes types = gguf_types(mixture, parts, model);
  report.fallbacks = types.fallbacks;
  std::vector<GgufTensor> tensors;
  for (const auto& [name, values] : model.tables)
    tensors.push_back({name, DType::f32, {static_cast<int64_t>(values.size())}});
  for (std::size_t i = 0; i < parts.size(); ++i) {
    DType& type = types.types[i];
    const Parameter<T, D>& w = *by_name.at(parts[i].from.front());
    if (stored && !gguf_stays_f32(parts[i])) type = w.value ? dtype_of<T> : w.stored.type;
    if (type == DType::f64) type = DType::f32;
    tensors.push_back({parts[i].name, type, parts[i].shape});
  }
  for (const GgufTensor& tensor : tensors) {
    ++report.types[tensor.type].tensors;
    report.types[tensor.type].parameters += tensor.shape.count();
  }

  if (const auto own = report.types.find(DType::nf4); own != report.types.end())
    report.notes.push_back(
        str(own->second.tensors, " tensors are NF4, which ftlib alone reads: llama.cpp opens no such file"));

  const Tokenizer& tokenizer = lm.tokenizer();
  int32_t end_of_turn = -1;
  if (!tokenizer.chat_template().empty()) try {
      end_of_turn = text::Prompt(tokenizer, {.form = text::Form::chat}).end_token();
    } catch (const Error& e) {
      report.notes.push_back(str("the chat template is written as it is, and was not tried: ", e.message()));
    }
  std::string name = options.name;
  if (name.empty()) name = (lm.path().has_filename() ? lm.path() : lm.path().parent_path()).stem().string();
  GgufMetadata metadata{{"general.architecture", model.architecture},
                        {"general.type", std::string("model")},
                        {"general.name", name},
                        {"general.file_type", stored ? detail::gguf_file_type(report.types) : mixture.number}};
  if (is_quantised(mixture.type) ||
      std::any_of(tensors.begin(), tensors.end(), [](const GgufTensor& t) { return is_quantised(t.type); }))
    metadata.emplace_back("general.quantization_version", uint32_t{2});
  metadata.insert(metadata.end(), model.metadata.begin(), model.metadata.end());
  auto of_tokenizer = gguf_tokenizer(tokenizer.spec(), lm.model().info().vocab_size, end_of_turn, report.notes,
                                     /*by_merges=*/model.architecture == "gemma4");
  std::move(of_tokenizer.begin(), of_tokenizer.end(), std::back_inserter(metadata));

  GgufWriter file(path, metadata, tensors);
  report.bytes = static_cast<int64_t>(file.bytes());
  for (const auto& [table, values] : model.tables) file.put(std::as_bytes(std::span(values)));
  std::unique_ptr<Context<Cpu>> host;
  Executor* pool = nullptr;
  if constexpr (std::same_as<D, Cpu>) {
    pool = &lm.context().pool();
  } else {
    host = std::make_unique<Context<Cpu>>();
    pool = &host->pool();
  }
  detail::GgufEncoder encoder(*pool, file);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    bool changed = false;
    DType from = DType::f32;
    const auto weight = [&](const std::string& of) {
      const Parameter<T, D>& w = *by_name.at(of);
      const Tensor<T, D> merged = lm.adapters().merged(lm.context(), w);
      report.merged += merged && !changed;
      changed |= static_cast<bool>(merged);
      from = w.value ? dtype_of<T> : w.stored.type;
      return detail::weight_in_use(lm, w, merged);
    };
    const DType type = types.types[i];
    std::vector<const float*> importance;
    Stored<Cpu> turned;  // in the order of GGUF's columns
    if (options.importance && is_quantised(type) && type != DType::q8_0 && type != DType::nf4)
      for (const std::string& of : parts[i].from) {
        const auto found = options.importance->squares.find(of);
        const bool fits = found != options.importance->squares.end() &&
                          static_cast<int64_t>(found->second.size()) == parts[i].shape.back();
        if (fits) {
          const Shape columns{parts[i].shape.back()};
          turned = model.map.columns_to_gguf(
              parts[i], {DType::f32, columns, reinterpret_cast<const std::byte*>(found->second.data()), {}});
        }
        importance.push_back(fits ? reinterpret_cast<const float*>(turned.data) : nullptr);
      }
    const auto known = std::count_if(importance.begin(), importance.end(), [](const float* one) { return one; });
    report.weighed += known > 0;
    if (known > 0) report.unweighed += static_cast<int64_t>(importance.size()) - known;
    try {
      encoder.put(model.map.gguf_tensor(parts[i], weight), type, importance);
    } catch (const Error& e) {
      throw Error(str(path.string(), ": tensor ", quote(parts[i].name), ": ", e.message()), e.hint(), e.kind());
    }
    for (const std::string& of : parts[i].from)  // what was turned or stacked in a copy
      if constexpr (std::same_as<D, Cpu>)
        if (const auto& w = by_name.at(of)->stored) release_pages({w.data, static_cast<std::size_t>(w.bytes())});
    report.copied += is_quantised(from) && !changed && from == type;
    report.requantised += is_quantised(from) && is_quantised(type) && (changed || from != type);
    if (options.progress) options.progress(static_cast<int64_t>(file.written()), report.bytes);
  }
  file.commit();
  return report;
}

template <Scalar T, Device D>
[[gnu::cold]] GgufReport save_gguf_adapter(CausalLM<T, D>& lm, const std::filesystem::path& path,
                                           const SaveGgufOptions& options) {
  GgufReport report{.path = path};
  const GgufMixture& mixture = gguf_mixture(options.type == "stored" ? "f32" : options.type);
  if (mixture.type != DType::f32 && mixture.type != DType::f16)
    throw Error(str(path.string(), ": an adapter in ", mixture.name), "f32 and f16 are written.");
  const AdapterData data = lm.adapter_data();
  if (data.config.kind != "lora")
    throw Error(str(path.string(), ": a GGUF LoRA does not hold an adapter of kind '", data.config.kind, '\''),
                "merge it: save_gguf() writes the model with what is in use.");
  const GgufDescription model = lm.model().gguf();
  report.notes = model.notes;

  // B under its weight's name goes the way of the weight; A is the same for all parts of one.
  struct Pair {
    Stored<Cpu> a, b;
    int64_t rank;
    float scale;
  };
  std::map<std::string, Pair> pairs;
  std::set<std::string> held;
  std::vector<std::string> names, unread;
  for (Parameter<T, D>* w : lm.adapters().base()) {
    const std::string target = target_of(*w);
    const auto a = data.tensors.find(target + ".lora_A.weight"), b = data.tensors.find(target + ".lora_B.weight");
    if (data.tensors.count(w->name)) unread.push_back(w->name);
    if (a == data.tensors.end() || b == data.tensors.end() || !w->name.ends_with(".weight")) continue;
    names.push_back(w->name);
    held.insert({a->first, b->first});
    Pair& pair = pairs[w->name] = {a->second, b->second, a->second.shape[0], data.config.scale_of(target)};
    if (w->part_of) detail::part_of_pair(*w->part_of, w->shape()[0], pair.a, pair.b, pair.rank);
  }
  if (!unread.empty() || held.size() != data.tensors.size())
    throw Error(str(path.string(), ": a GGUF LoRA does not hold ",
                    unread.empty() ? str(data.tensors.size() - held.size(), " of the adapter's tensors")
                                   : str("'", unread.front(), "', which is trained whole (", unread.size(), " such)")),
                "merge it: save_gguf() writes the model with what is in use.");
  report.adapted = static_cast<int64_t>(names.size());
  const auto parts = model.map.gguf_parts(
      names, [&](const std::string& name) { return pairs.at(name).b.shape; }, path.string());

  for (const TensorMap::Part& part : parts)
    if (part.name == "per_layer_model_proj.weight")
      report.notes.push_back(
          "llama.cpp passes over per_layer_model_proj's pair without a word, and answers otherwise: merge the adapter, "
          "or leave per_layer_model_projection out of its targets");

  // llama.cpp knows one alpha, and divides it by each B's own rank.
  const auto alpha_of = [&](const std::string& name) {
    const Pair& pair = pairs.at(name);
    return pair.scale * static_cast<float>(pair.rank);
  };
  const float alpha = alpha_of(names.front());
  int64_t rescaled = 0;
  std::vector<GgufTensor> tensors;
  for (const TensorMap::Part& part : parts) {
    const std::string& name = part.from.front();
    if (std::abs(alpha_of(name) / alpha - 1) > 1e-6f) ++rescaled;
    tensors.push_back({part.name + ".lora_a", mixture.type, pairs.at(name).a.shape});
    tensors.push_back({part.name + ".lora_b", mixture.type, part.shape});
  }
  if (rescaled)
    report.notes.push_back(str(rescaled, " of ", parts.size(),
                               " pairs have another scale than the first: GGUF has one for "
                               "all, so that theirs is in the values of lora_b"));
  for (const GgufTensor& tensor : tensors) {
    ++report.types[tensor.type].tensors;
    report.types[tensor.type].parameters += tensor.shape.count();
  }
  const GgufMetadata metadata{{"general.architecture", model.architecture},
                              {"general.type", std::string("adapter")},
                              {"adapter.type", std::string("lora")},
                              {"adapter.lora.alpha", alpha},
                              {"general.name", options.name.empty() ? path.stem().string() : options.name},
                              {"general.base_model.count", uint32_t{1}},
                              {"general.base_model.0.name", std::filesystem::path(data.base).stem().string()},
                              {"general.file_type", mixture.number}};
  GgufWriter file(path, metadata, tensors);
  report.bytes = static_cast<int64_t>(file.bytes());
  Context<Cpu> host({.threads = 1});
  detail::GgufEncoder encoder(host.pool(), file);
  for (const TensorMap::Part& part : parts) {
    const std::string& name = part.from.front();
    encoder.put(model.map.columns_to_gguf(part, pairs.at(name).a), mixture.type);
    Stored<Cpu> b = model.map.gguf_tensor(
        part, [&](const std::string& of) { return pairs.at(of).b; }, TensorMap::Of::lora_b);
    const float factor = alpha_of(name) / alpha;
    if (std::abs(factor - 1) > 1e-6f) {
      auto [scaled, bytes] = detail::new_stored(DType::f32, b.shape);
      auto* const values = reinterpret_cast<float*>(bytes);
      dequantise_row(b.type, b.data, 0, b.shape.count(), values);
      for (int64_t i = 0; i < b.shape.count(); ++i) values[i] *= factor;
      b = scaled;
    }
    encoder.put(b, mixture.type);
  }
  file.commit();
  return report;
}

}  // namespace ft::inline FTLIB_ABI
