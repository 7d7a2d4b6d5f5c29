// adapters/set.inl.hpp: the bodies of adapters/set.hpp.
#pragma once
#include <ftlib/adapters/data.inl.hpp>
#include <ftlib/adapters/kinds.inl.hpp>  // make_adapter
#include <ftlib/adapters/residual.hpp>   // removed_factors
#include <ftlib/adapters/set.hpp>
#include <ftlib/adapters/stack_lora.inl.hpp>    // StackLora, target_of
#include <ftlib/adapters/trained_copy.inl.hpp>  // TrainedCopy
#include <ftlib/tensor/quantised.hpp>           // dequantise_row

#include <algorithm>  // std::replace
#include <cmath>      // std::isfinite

namespace ft::inline FTLIB_ABI {

/// What use() hangs over a session's weights, with what it was made of.
template <Scalar T, Device D> struct AdapterSet<T, D>::InUse : Overlay<T, D> {
  struct Part {
    std::string name;
    Entry adapter;
    float strength;
  };
  std::vector<Part> parts;
  std::vector<std::unique_ptr<Parameter<T, D>>> blends;  // sums where an adapter holds its weight whole
};

namespace detail {
/// A weight that products are made with: what a low-rank adapter may go to.
template <Scalar T, Device D> bool is_matrix(const Parameter<T, D>& w) {
  return w.shape().rank() == 2 && (w.kind == WeightKind::linear || w.kind == WeightKind::head);
}
inline std::string join(const auto& names, std::size_t most = 8) {
  std::string all;
  std::size_t i = 0;
  for (const auto& name : names) {
    if (i++ == most) return all + ", ...";
    all += str(all.empty() ? "'" : ", '", name, '\'');
  }
  return all;
}
template <Scalar T, Device D> [[gnu::cold]] Error whole_and_stacked(const Parameter<T, D>& w) {
  return Error(str("adapters: '", w.name, "' is trained whole, and adapted as a part of '", w.part_of->stack, '\''),
               "leave one of the two.");
}
/// Whether what a file calls its targets means a module, or a stack. Throws Error for a pattern that is not understood.
template <Scalar T, Device D> bool said(const AdapterData& data, const Parameter<T, D>& w) {
  if (w.part_of) return Targets(data.said_parameters).match(w.part_of->stack);
  const std::string module = module_of(w.name);
  const bool linear = w.kind == WeightKind::linear;
  if (data.said_pattern == "all-linear") return linear;  // all but the head
  return data.said_pattern.empty() ? Targets(data.said_names).match(module)
                                   : matches_pattern(data.said_pattern, module);
}
/// Values of a file's tensor. Throws Error for one that is not finite.
template <Scalar T> std::vector<T> finite_values(const Stored<Cpu>& tensor, const std::string& where) {
  std::vector<T> values(static_cast<std::size_t>(tensor.shape.count()));
  dequantise_row(tensor.type, tensor.data, 0, tensor.shape.count(), values.data());
  for (std::size_t i = 0; i < values.size(); ++i)
    if (const accumulate_t<T> value(values[i]); !std::isfinite(value))
      throw Error(str(where, ": element ", i, " is ", value),
                  "its training went wrong, or it does not fit the compute type.");
  return values;
}
}  // namespace detail

template <Scalar T, Device D>
AdapterSet<T, D>::AdapterSet(Params base, const Parameter<T, D>* tied) : base_(std::move(base)), tied_(tied) {
  int32_t index = 0;
  for (Parameter<T, D>* w : base_) w->index = index++;
}

template <Scalar T, Device D> std::vector<std::string> AdapterSet<T, D>::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  for (const auto& [name, adapter] : named_) all.push_back(name);
  return all;
}
template <Scalar T, Device D> bool AdapterSet<T, D>::contains(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return named_.contains(name);
}
template <Scalar T, Device D> typename AdapterSet<T, D>::Entry AdapterSet<T, D>::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = named_.find(name);
  if (found != named_.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& [other, adapter] : named_) known.push_back(other);
  throw Error(str("adapters: there is none called '", name, '\''),
              known.empty() ? "attach or load one." : "there are " + detail::join(known) + ".");
}
template <Scalar T, Device D>
typename AdapterSet<T, D>::Entry AdapterSet<T, D>::find_own(const Context<D>& ctx, const std::string& name,
                                                            const char* what) const {
  Entry adapter = find(name);
  if (adapter->trained_in && adapter->trained_in != &ctx)
    throw Error(str("adapters: '", name, "' is trained by another session, which alone may ", what, " it"),
                "let that one copy() it under another name, and use the copy.");
  return adapter;
}
template <Scalar T, Device D>
void AdapterSet<T, D>::replace(const Context<D>& ctx, const std::string& name, Entry adapter) {
  const std::lock_guard lock(mutex_);
  Entry& at = named_[name];
  if (at && at->trained_in && at->trained_in != &ctx)
    throw Error(str("adapters: '", name, "' is trained by another session"), "choose another name.");
  at = std::move(adapter);
}
template <Scalar T, Device D> void AdapterSet<T, D>::remove(const std::string& name) {
  find(name);
  const std::lock_guard lock(mutex_);
  named_.erase(name);
}
template <Scalar T, Device D> void AdapterSet<T, D>::remove_trained(const Context<D>& ctx) {
  const std::lock_guard lock(mutex_);
  std::erase_if(named_, [&](const auto& named) { return named.second->trained_in == &ctx; });
}
/// Only writes where something changes: other sessions read the base.
template <Scalar T, Device D> void AdapterSet<T, D>::freeze_base() {
  for (Parameter<T, D>* w : base_) {
    if (w->trainable) w->trainable = false;
    if (w->grad) w->grad = {};
  }
}

template <Scalar T, Device D>
[[gnu::cold]] int AdapterSet<T, D>::add(Context<D>& ctx, const std::string& name, const Lora& config) {
  config.check("lora");
  auto made = std::make_shared<ModelAdapter<T, D>>();
  made->config = config;
  made->on.resize(base_.size());
  made->trained_in = &ctx;
  Random random(config.seed);
  std::set<std::string> saved, unmatched(config.targets.names.begin(), config.targets.names.end());
  std::map<std::string, std::shared_ptr<Adapter<T, D>>> stacks;
  int adapted = 0;
  for (Parameter<T, D>* w : base_) {
    const std::string module = module_of(w->name);
    auto& on = made->on[static_cast<std::size_t>(w->index)];
    const bool of_stack = w->part_of && config.targets.match(w->part_of->stack);
    if (config.saves(module)) {
      if (of_stack) throw detail::whole_and_stacked(*w);
      if (w == tied_)
        throw Error(str("lora: modules_to_save names '", module, "', which is the embedding and the head at once here"),
                    "PEFT would part the two; leave it out, or train the whole model.");
      on = std::make_shared<TrainedCopy<T, D>>(ctx, *w);
      saved.insert(module);
      continue;
    }
    if (of_stack) {
      for (auto it = unmatched.begin(); it != unmatched.end();)
        it = Targets{*it}.match(w->part_of->stack) ? unmatched.erase(it) : std::next(it);
      auto& shared = stacks[w->part_of->stack];
      if (!shared) shared = std::make_shared<StackLora<T, D>>(ctx, *w, config, &random);
      on = shared;
      ++adapted;
      continue;
    }
    if (config.targets.all ? w->kind != WeightKind::linear : w->shape().rank() != 2 || !config.targets.match(module))
      continue;
    for (auto it = unmatched.begin(); it != unmatched.end();)
      it = Targets{*it}.match(module) ? unmatched.erase(it) : std::next(it);
    if (!detail::is_matrix(*w))
      throw Error(
          str("lora: '", w->name, w->kind == WeightKind::embedding ? "' is an embedding" : "' is no linear layer's",
              "; only matrices of linear layers are adapted"),
          w->part_of ? str("experts are adapted all at once, as '", w->part_of->stack, "'.") : std::string());
    on = make_adapter(ctx, *w, config, &random);
    ++adapted;
  }
  if (!unmatched.empty() || (adapted == 0 && saved.empty())) {
    const bool head = tied_ && unmatched.contains("lm_head");
    throw Error(str("lora: no linear layer's name ends with one of: ", detail::join(unmatched)),
                head ? "this model's head is its embedding; only matrices of their own are adapted."
                     : "Llama's and Gemma's are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.");
  }
  for (const std::string& wanted : config.modules_to_save)
    if (std::none_of(saved.begin(), saved.end(), [&](const auto& module) { return module.ends_with(wanted); }))
      throw Error(str("lora: no module's name ends with '", wanted, "', which modules_to_save names"));
  freeze_base();
  replace(ctx, name, std::move(made));
  return adapted + static_cast<int>(saved.size());
}

template <Scalar T, Device D>
[[gnu::cold]] std::vector<std::string> AdapterSet<T, D>::put(Context<D>& ctx, const std::string& name,
                                                             const AdapterData& data) {
  const std::string& from = data.source;
  std::map<std::string, Parameter<T, D>*, std::less<>> by_name, by_module;  // kohya's names have no dots
  std::map<std::string, std::vector<Parameter<T, D>*>> stacks;              // of each the first stands for all
  for (Parameter<T, D>* w : base_) {
    by_name[w->name] = w;
    if (w->part_of && (stacks[w->part_of->stack].push_back(w), stacks[w->part_of->stack].size() > 1)) continue;
    if (!w->part_of && !detail::is_matrix(*w)) continue;
    std::string module = target_of(*w);
    by_module[module] = w;
    std::replace(module.begin(), module.end(), '.', '_');
    by_module[module] = w;
  }

  // Which tensor is for which weight.
  std::map<Parameter<T, D>*, std::map<std::string, std::string>> parts;  // ending -> the data's name
  std::map<Parameter<T, D>*, float> alphas;
  std::vector<Parameter<T, D>*> whole;
  std::vector<std::string> unmatched, warnings = data.warnings;
  for (const auto& [key, tensor] : data.tensors) {
    if (const auto w = by_name.find(key); w != by_name.end()) {
      if (w->second == tied_)
        throw Error(str(from, ": '", key, "' is the embedding and the head at once in this model"),
                    "an adapter with a copy of one of them parts the two, which is not supported.");
      whole.push_back(w->second);
      continue;
    }
    if (key.ends_with(".base_layer.weight")) {  // PEFT saves the head's own weight beside its adapter
      const auto w = by_name.find(key.substr(0, key.size() - std::string_view("base_layer.weight").size()) + "weight");
      if (w == by_name.end()) {
        unmatched.push_back(data.key_of(key));
        continue;
      }
      if (tensor.shape != w->second->shape())
        throw Error(str(from, ": '", data.key_of(key), "' is ", tensor.shape, ", the model's is ", w->second->shape()),
                    "the adapter was made for a model with another vocabulary.");
      const auto theirs = detail::finite_values<T>(tensor, str(from, ": '", data.key_of(key), '\''));
      const auto ours = dense(ctx, *w->second).to_host(ctx);
      double most = 0;
      for (std::size_t i = 0; i < ours.size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(accumulate_t<T>(ours[i])) -
                                       static_cast<double>(accumulate_t<T>(theirs[i]))));
      if (most > 0)
        warnings.push_back(
            str(from, ": '", data.key_of(key), "' was ignored; it differs from the model's by up to ", most));
      continue;
    }
    for (const char* other : {".lora_embedding_A", ".lora_embedding_B", ".lora_B.bias"})
      if (key.ends_with(other)) throw Error(str(from, ": '", data.key_of(key), "': ", other, " is not supported"));
    const auto cut = std::min(key.rfind(".lora_"), key.ends_with(".alpha") ? key.size() - 6 : key.npos);
    const auto w = by_module.find(std::string_view(key).substr(0, cut == key.npos ? key.size() : cut));
    if (tied_ && key.starts_with("lm_head."))
      throw Error(
          str(from, ": '", data.key_of(key), "': this model's head is its embedding, and an embedding is not adapted"),
          "train the adapter without lm_head.");
    if (cut == key.npos || w == by_module.end() || key.ends_with(".bias")) {
      unmatched.push_back(data.key_of(key));
    } else if (key.ends_with(".alpha")) {
      if (tensor.shape.count() != 1)
        throw Error(str(from, ": '", data.key_of(key), "' ", tensor.shape, " is no number"));
      alphas[w->second] = detail::finite_values<float>(tensor, str(from, ": '", key, '\'')).front();
    } else if (!parts[w->second].emplace(key.substr(cut), key).second) {
      throw Error(str(from, ": '", data.key_of(parts[w->second][key.substr(cut)]), "' and '", data.key_of(key),
                      "' are for one layer"));
    }
  }
  if (!unmatched.empty() || (parts.empty() && whole.empty()))
    throw Error(
        str(from, ": ", unmatched.size(), " of ", data.tensors.size(), " keys match no linear layer of this model",
            unmatched.empty() ? "" : ": ", detail::join(unmatched)),
        "the adapter was made for another model.");

  if (!data.said_names.empty() || !data.said_pattern.empty() || !data.said_parameters.empty()) try {
      std::vector<std::string> missing, more;
      for (const auto& [module, w] : by_module) {
        if (module != target_of(*w) || std::find(whole.begin(), whole.end(), w) != whole.end()) continue;
        const bool there = parts.contains(w), said = detail::said(data, *w);
        if (said && !there) missing.push_back(module);
        if (there && !said) more.push_back(module);
      }
      if (!missing.empty())
        warnings.push_back(str(from, ": of ", missing.size(),
                               " layers that target_modules names there are no tensors, so that they "
                               "answer as the base does: ",
                               detail::join(missing, 3)));
      if (!more.empty())
        warnings.push_back(
            str(from, ": ", more.size(),
                " layers that target_modules does not name have tensors, which are used: ", detail::join(more, 3)));
    } catch (const Error& error) {
      warnings.push_back(str(from, ": target_modules: ", error.message(), "; what has tensors is used"));
    }

  auto made = std::make_shared<ModelAdapter<T, D>>();
  Lora& config = made->config = data.config;
  made->base = data.base;
  made->on.resize(base_.size());
  config.targets = {};
  if (data.rank_in_tensors || !alphas.empty()) {  // each layer's own; the first one's is the default
    bool first = true;
    for (const auto& [w, of] : parts) {
      const std::string module = target_of(*w);
      const auto a = of.find(".lora_A.weight");
      int rank = config.rank_of(module);
      float alpha = config.alpha_of(module);
      if (data.rank_in_tensors && a != of.end()) {
        const Shape& shape = data.tensors.at(a->second).shape;
        rank = static_cast<int>(shape.rank() ? shape[0] / (w->part_of ? w->part_of->count : 1) : 0);
        alpha = static_cast<float>(rank);
      }
      if (alphas.contains(w)) alpha = alphas[w];
      if (std::exchange(first, false)) {
        config.rank = rank;
        config.alpha = alpha;
      }
      if (rank != config.rank) config.rank_pattern[module] = rank;
      if (alpha != config.alpha) config.alpha_pattern[module] = alpha;
    }
  }
  config.check(from);

  // The values.
  std::map<std::string, Parameter<T, D>*> adapted;  // by name, so that files are read in one order
  for (const auto& [w, of] : parts) adapted[w->name] = w;
  for (const auto& [w_name, w] : adapted) {
    auto& of = parts[w];
    std::shared_ptr<Adapter<T, D>> adapter;
    if (w->part_of) adapter = std::make_shared<StackLora<T, D>>(ctx, *w, config, nullptr);
    else adapter = make_adapter(ctx, *w, config, nullptr);
    const std::string module = target_of(*w), first = of.begin()->second,
                      hint = w->part_of ? "peft before 0.18 laid out experts otherwise." : "";
    adapter->visit([&](Parameter<T, D>& own) {
      const auto found = of.find(own.name.substr(module.size()));
      if (found == of.end())
        throw Error(str(from, ": '", data.key_of(first), "' has no partner '", own.name, '\''),
                    "each layer needs all matrices of its adapter.");
      const std::string key = found->second;
      of.erase(found);
      const Stored<Cpu>& tensor = data.tensors.at(key);
      const int64_t rows =
          tensor.shape.rank() ? tensor.shape[0] : 1;  // convolutions' are (R, ch, p, p), (out, R, 1, 1)
      const bool fits = own.shape().rank() == 2
                            ? tensor.shape.rank() >= 2 &&
                                  Shape{rows, tensor.shape.count() / std::max<int64_t>(1, rows)} == own.shape()
                            : tensor.shape.count() == own.count();
      if (!fits)
        throw Error(str(from, ": '", data.key_of(key), "' is ", tensor.shape, ", the model and rank ",
                        config.rank_of(module), " ask for ", own.shape()),
                    hint);
      own.value =
          Tensor<T, D>(ctx, own.shape(), detail::finite_values<T>(tensor, str(from, ": '", data.key_of(key), '\'')));
      own.trainable = false;
    });
    if (!of.empty())
      throw Error(str(from, ": '", data.key_of(of.begin()->second), "' is no part of kind '", config.kind, '\''),
                  "the configuration is of another adapter.");
    if (w->part_of)
      for (const Parameter<T, D>* one : stacks.at(module)) made->on[static_cast<std::size_t>(one->index)] = adapter;
    else made->on[static_cast<std::size_t>(w->index)] = std::move(adapter);
    config.targets.names.push_back(module);
  }
  std::set<std::string> saved;
  for (Parameter<T, D>* w : whole) {
    const Stored<Cpu>& tensor = data.tensors.at(w->name);
    if (tensor.shape != w->shape())
      throw Error(str(from, ": '", w->name, "' is ", tensor.shape, ", the model's is ", w->shape()));
    auto& on = made->on[static_cast<std::size_t>(w->index)];
    if (on && w->part_of) throw detail::whole_and_stacked(*w);
    if (on) throw Error(str(from, ": '", w->name, "' is both adapted and there whole"));
    Parameter<T, D> own(
        w->name, Tensor<T, D>(ctx, w->shape(), detail::finite_values<T>(tensor, str(from, ": '", w->name, '\''))),
        false);
    own.kind = w->kind;
    on = std::make_shared<TrainedCopy<T, D>>(std::move(own));
    saved.insert(module_of(w->name));
  }
  std::erase_if(config.modules_to_save, [&](const std::string& wanted) {
    if (std::any_of(saved.begin(), saved.end(), [&](const auto& module) { return module.ends_with(wanted); }))
      return false;
    warnings.push_back(str(from, ": modules_to_save names '", wanted, "', of which there is no tensor"));
    return true;
  });

  if (!data.initial.empty()) {  // W was less of B0 A0 in training: A0 and -B0 / s join A and B
    if (config.kind != "lora")
      throw Error(str(from, ": initial weights '", data.initial, "' with kind '", config.kind, "' are not supported"));
    for (const auto& [w_name, w] : adapted) {
      if (w->part_of)
        throw Error(str(from, ": initial weights '", data.initial, "' of '", target_of(*w), "' are not supported"));
      auto& lora = static_cast<LoraAdapter<T, D>&>(*made->on[static_cast<std::size_t>(w->index)]);
      const int64_t out = w->shape()[0], in = w->shape()[1], R = lora.a.shape()[0];
      std::vector<double> values;
      for (const T v : dense(ctx, *w).to_host(ctx)) values.push_back(static_cast<double>(accumulate_t<T>(v)));
      const auto [a0, b0] = removed_factors(data.initial, values, out, in, R, static_cast<double>(lora.scale));
      auto a = lora.a.value.to_host(ctx), b = lora.b.value.to_host(ctx);
      for (const double v : a0) a.push_back(static_cast<T>(static_cast<accumulate_t<T>>(v)));
      std::vector<T> both;
      for (std::size_t o = 0; o < static_cast<std::size_t>(out); ++o)
        for (std::size_t i = 0; i < 2 * static_cast<std::size_t>(R); ++i) {
          const auto r = static_cast<std::size_t>(R);
          both.push_back(i < r ? b[o * r + i]
                               : static_cast<T>(static_cast<accumulate_t<T>>(-b0[o * r + i - r] /
                                                                             static_cast<double>(lora.scale))));
        }
      lora.a.value = Tensor<T, D>(ctx, {2 * R, in}, a);
      lora.b.value = Tensor<T, D>(ctx, {out, 2 * R}, both);
    }
    // Twice the rank at the same scale.
    const float grown = config.rslora ? std::sqrt(2.0f) : 2.0f;
    config.rank *= 2;
    config.alpha *= grown;
    for (auto& [key, rank] : config.rank_pattern) rank *= 2;
    for (auto& [key, alpha] : config.alpha_pattern) alpha *= grown;
    warnings.push_back(
        str(from, ": trained as '", data.initial, "' beside a changed base; read as LoRA of twice the rank"));
  }
  ctx.synchronize();  // other sessions' streams may read it next
  replace(ctx, name, std::move(made));
  return warnings;
}

template <Scalar T, Device D>
[[gnu::cold]] AdapterData AdapterSet<T, D>::data(Context<D>& ctx, const std::string& name) const {
  const Entry adapter = find_own(ctx, name, "save");
  AdapterData data;
  data.config = adapter->config;
  data.base = adapter->base;
  data.source = name;
  const auto put = [&](const std::string& key, const Tensor<T, D>& value) {
    const auto bytes = std::make_shared<std::vector<T>>(value.to_host(ctx));
    data.tensors[key] = {dtype_of<T>, value.shape(), reinterpret_cast<const std::byte*>(bytes->data()), bytes};
  };
  std::set<std::string> last, full, saved;
  std::set<const Adapter<T, D>*> seen;  // a stack's parts share one
  // Of a stack "experts.gate_up_proj": short names are not to mean a layer that is called so.
  const auto short_name = [](const Parameter<T, D>& w) {
    const std::string target = target_of(w);
    std::size_t cut = target.rfind('.');
    if (w.part_of && cut != target.npos && cut > 0) cut = target.rfind('.', cut - 1);
    return target.substr(cut + 1);
  };
  std::size_t adapted = 0;
  for (Parameter<T, D>* w : base_) {
    const auto& on = adapter->on[static_cast<std::size_t>(w->index)];
    const std::string module = target_of(*w);
    if (on && !seen.insert(on.get()).second) continue;
    if (on && !on->replacement()) {
      if (w->trainable)
        throw Error(str("adapters: '", w->name, "' is trained itself and by '", name, "' at once: no file holds that"),
                    "merge the adapter, or freeze the weight.");
      full.insert(module);
      last.insert(short_name(*w));
      ++adapted;
    } else if (on || w->trainable) {
      saved.insert(module_of(w->name));
    }
    if (on) on->visit([&](const Parameter<T, D>& own) { put(own.name, own.value); });
  }
  for (Parameter<T, D>* w : base_)  // PEFT saves modules, with their biases
    if (saved.contains(module_of(w->name)) && !data.tensors.contains(w->name)) {
      if (w == tied_)
        throw Error(str("adapters: '", w->name, "' is embedding and head at once; no adapter's file holds it"));
      put(w->name, dense(ctx, *w));
    }
  // Short names where they say the same, as people write them; else the modules' full names.
  const auto saves = [&](const std::vector<std::string>& wanted) {
    Lora probe;
    probe.modules_to_save = wanted;
    std::set<std::string> found;
    for (Parameter<T, D>* w : base_)
      if (probe.saves(module_of(w->name))) found.insert(module_of(w->name));
    return found;
  };
  if (saves(data.config.modules_to_save) != saved) data.config.modules_to_save.assign(saved.begin(), saved.end());
  if (saves(data.config.modules_to_save) != saved)
    throw Error("adapters: modules_to_save cannot name the trained weights alone: their names end alike",
                "PEFT goes by endings of names.");
  const Targets by_last(std::vector<std::string>(last.begin(), last.end()));
  std::size_t matched = 0;
  std::set<std::string> stacks;
  for (Parameter<T, D>* w : base_) {
    matched += w->shape().rank() == 2 && !saved.contains(module_of(w->name)) && by_last.match(module_of(w->name));
    if (w->part_of && stacks.insert(w->part_of->stack).second) matched += by_last.match(w->part_of->stack);
  }
  data.config.targets = Targets(std::vector<std::string>(full.begin(), full.end()));
  if (matched == adapted) data.short_targets.assign(last.begin(), last.end());
  return data;
}

template <Scalar T, Device D>
typename AdapterSet<T, D>::Entry AdapterSet<T, D>::copy_of(Context<D>& ctx, const ModelAdapter<T, D>& adapter,
                                                           float share) const {
  auto twin = std::make_shared<ModelAdapter<T, D>>();
  twin->config = adapter.config;
  twin->base = adapter.base;
  std::map<const Adapter<T, D>*, std::shared_ptr<Adapter<T, D>>> copies;  // a stack's parts share one
  for (const Parameter<T, D>* w : base_) {
    const auto& on = adapter.on[static_cast<std::size_t>(w->index)];
    auto& copy = copies[on.get()];
    if (on && !copy) copy = on->copy(ctx, *w, share);
    twin->on.push_back(copy);
  }
  return twin;
}
template <Scalar T, Device D>
void AdapterSet<T, D>::copy(Context<D>& ctx, const std::string& from, const std::string& to, float share) {
  const Entry adapter = find_own(ctx, from, "copy");
  for (const Parameter<T, D>* w : base_)
    if (w->trainable)
      throw Error(str("adapters: '", w->name, "' of the base is trained beside '", from, "'"),
                  "name its module in modules_to_save, so that the adapter has a copy of it.");
  auto twin = copy_of(ctx, *adapter, share);
  ctx.synchronize();  // other sessions' streams may read it next
  replace(ctx, to, std::move(twin));
}
template <Scalar T, Device D> void AdapterSet<T, D>::freeze(Context<D>& ctx) noexcept {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, adapter] : named_) {
    if (adapter->trained_in != &ctx) continue;
    adapter->visit([](Parameter<T, D>& own) {
      own.trainable = false;
      own.grad = {};
    });
    adapter->trained_in = nullptr;
  }
}
template <Scalar T, Device D>
void AdapterSet<T, D>::interpolate(Context<D>& ctx, const std::string& name, float share) {
  const Entry adapter = find_own(ctx, name, "change");
  auto twin = copy_of(ctx, *adapter, share);
  twin->trained_in = adapter->trained_in;
  if (twin->trained_in) twin->visit([](Parameter<T, D>& own) { own.trainable = true; });
  ctx.synchronize();
  replace(ctx, name, std::move(twin));
}
template <Scalar T, Device D> void AdapterSet<T, D>::train(Context<D>& ctx, const std::string& name) {
  const Entry adapter = find_own(ctx, name, "train");
  if (adapter->trained_in == &ctx) return;
  const Strengths before = used(ctx);
  auto twin = copy_of(ctx, *adapter, 1);
  twin->trained_in = &ctx;
  twin->visit([](Parameter<T, D>& own) { own.trainable = true; });
  freeze_base();
  replace(ctx, name, std::move(twin));
  if (before.contains(name)) use(ctx, before);
}

template <Scalar T, Device D>
const typename AdapterSet<T, D>::InUse* AdapterSet<T, D>::in_use_by(const Context<D>& ctx) {
  return static_cast<const InUse*>(Overlay<T, D>::of(ctx));
}
template <Scalar T, Device D> typename AdapterSet<T, D>::Strengths AdapterSet<T, D>::used(const Context<D>& ctx) const {
  Strengths strengths;
  if (const InUse* in_use = in_use_by(ctx))
    for (const auto& part : in_use->parts) strengths[part.name] = part.strength;
  return strengths;
}

template <Scalar T, Device D> void AdapterSet<T, D>::describe(const Context<D>& ctx, Description& d) const {
  const InUse* in_use = in_use_by(ctx);
  if (!in_use) return;
  for (const auto& part : in_use->parts) {
    const Lora& config = part.adapter->config;
    const std::string at = in_use->parts.size() == 1 ? "lora." : "lora." + part.name + ".";
    d.add(at + "kind", config.kind);
    const auto rank = static_cast<float>(config.rank);
    d.add(at + "scale", config.alpha / (config.rslora ? std::sqrt(rank) : rank));
    d.add(at + "dropout", config.dropout);
    d.add(at + "strength", part.strength);
    for (const auto& [key, own] : config.rank_pattern) d.add(at + "rank." + key, own);
    for (const auto& [key, alpha] : config.alpha_pattern) d.add(at + "alpha." + key, alpha);
  }
}

template <Scalar T, Device D> void AdapterSet<T, D>::use(Context<D>& ctx, const Strengths& strengths) {
  if (strengths.empty()) return use_base(ctx);
  auto made = std::make_shared<InUse>();
  made->slots.resize(base_.size());
  for (const auto& [name, strength] : strengths) {
    if (!std::isfinite(strength)) throw Error(str("adapters: a strength of ", strength, " for '", name, '\''));
    Entry adapter = find_own(ctx, name, "use");
    for (std::size_t i = 0; i < base_.size(); ++i) {
      if (!adapter->on[i]) continue;
      made->slots[i].weight = base_[i];
      made->slots[i].uses.push_back({adapter->on[i].get(), strength});
    }
    made->parts.push_back({name, std::move(adapter), strength});
  }
  for (std::size_t i = 0; i < base_.size(); ++i) {  // where an adapter holds its weight whole
    auto& slot = made->slots[i];
    bool whole = false, trained = false;
    for (const auto& [adapter, strength] : slot.uses) {
      whole |= adapter->replacement() != nullptr;
      adapter->visit([&](const Parameter<T, D>& own) { trained |= own.trainable; });
    }
    if (!whole) continue;
    for (const auto& [adapter, strength] : slot.uses)  // experts ask one of a stack what is in use on all
      if (base_[i]->part_of && !adapter->replacement()) throw detail::whole_and_stacked(*base_[i]);
    if (slot.uses.size() == 1 && slot.uses.front().strength == 1) {
      slot.replacement = slot.uses.front().adapter->replacement();
      continue;
    }
    if (trained)
      throw Error(str("adapters: '", base_[i]->name, "' is trained whole and cannot learn as a part of a sum"),
                  "use that adapter alone, at strength 1, to train it.");
    const Tensor<T, D> w = dense(ctx, *base_[i]);
    Tensor<T, D> sum = clone(ctx, w);
    for (const auto& [adapter, strength] : slot.uses) {
      const Tensor<T, D> change = sub(ctx, adapter->merged(ctx, *base_[i]), w);
      linear_combination(ctx, sum.view(), View<const T>(sum.view()), View<const T>(change.view()), T(1.0f),
                         T(strength));
    }
    auto blend = std::make_unique<Parameter<T, D>>(base_[i]->name, sum, false);
    blend->kind = base_[i]->kind;
    slot.replacement = blend.get();
    made->blends.push_back(std::move(blend));
  }
  ctx.exchange_overlay(std::static_pointer_cast<Overlay<T, D>>(std::move(made)));
}

template <Scalar T, Device D>
std::vector<std::shared_ptr<Parameter<T, D>>> AdapterSet<T, D>::shared_parameters(
    const Context<D>& ctx, const std::shared_ptr<void>& owner) const {
  std::vector<std::shared_ptr<Parameter<T, D>>> all;
  for (Parameter<T, D>* w : base_) all.emplace_back(owner, w);
  if (const InUse* in_use = in_use_by(ctx))
    for (const auto& part : in_use->parts)
      part.adapter->visit([&](Parameter<T, D>& own) { all.emplace_back(part.adapter, &own); });
  return all;
}
template <Scalar T, Device D>
typename AdapterSet<T, D>::Params AdapterSet<T, D>::parameters(const Context<D>& ctx) const {
  Params all;
  for (const auto& w : shared_parameters(ctx, nullptr)) all.push_back(w.get());
  return all;
}

template <Scalar T, Device D>
[[gnu::cold]] void AdapterSet<T, D>::train_base(Context<D>& ctx,
                                                const std::function<bool(const Parameter<T, D>&)>& which) {
  const InUse* in_use = in_use_by(ctx);
  std::vector<std::pair<Parameter<T, D>*, Tensor<T, D>>> values;
  int64_t missing = 0;
  for (std::size_t i = 0; i < base_.size(); ++i) {
    if (base_[i]->kind == WeightKind::constant || !which(*base_[i])) continue;
    if (in_use && in_use->slots[i].weight)
      throw Error(str("train: '", base_[i]->name, "' has an adapter that is in use: no file holds both"),
                  "leave it out, or attach the adapter with other `targets`.");
    values.emplace_back(base_[i], base_[i]->value);
    missing += base_[i]->value ? 0 : storage_bytes(dtype_of<T>, base_[i]->count());
  }
  if (values.empty()) throw Error(str("train: none of the model's ", base_.size(), " weights is meant"));
  try {
    for (auto& [w, value] : values)
      if (!value) value = dense(ctx, *w);
  } catch (const Error& e) {
    throw Error(
        str("train: ", values.size(), " weights in ", dtype_of<T>, " take ", missing, " bytes more: ", e.what()),
        "nothing was changed; attach an adapter, or compute in 16 bits.", e.kind());
  }
  freeze_base();
  for (auto& [w, value] : values) {
    w->value = std::move(value);
    w->stored = {};
    w->trainable = true;
  }
}
template <Scalar T, Device D> void AdapterSet<T, D>::train_all(Context<D>& ctx) {
  auto overlay = ctx.exchange_overlay(nullptr);
  try {
    train_base(ctx, [](const Parameter<T, D>&) { return true; });
  } catch (...) {
    ctx.exchange_overlay(std::move(overlay));
    throw;
  }
}

template <Scalar T, Device D>
[[gnu::cold]] Tensor<T, D> AdapterSet<T, D>::merged(Context<D>& ctx, const Parameter<T, D>& w) const {
  const InUse* in_use = in_use_by(ctx);
  const auto* slot = in_use ? &in_use->slots[static_cast<std::size_t>(w.index)] : nullptr;
  if (!slot || !slot->weight) return {};
  if (slot->replacement) return clone(ctx, slot->replacement->value);
  if (slot->uses.size() == 1 && slot->uses.front().strength == 1) return slot->uses.front().adapter->merged(ctx, w);
  const Tensor<T, D> base = dense(ctx, w);
  Tensor<T, D> value = clone(ctx, base);
  for (const auto& [adapter, strength] : slot->uses) {
    const Tensor<T, D> change = sub(ctx, adapter->merged(ctx, w), base);
    linear_combination(ctx, value.view(), View<const T>(value.view()), View<const T>(change.view()), T(1.0f),
                       T(strength));
  }
  return value;
}
template <Scalar T, Device D> [[gnu::cold]] void AdapterSet<T, D>::merge(Context<D>& ctx) {
  if (!in_use_by(ctx)) throw Error("merge: there is no adapter in use");
  std::vector<std::pair<Parameter<T, D>*, Tensor<T, D>>> values;
  for (Parameter<T, D>* w : base_)
    if (Tensor<T, D> value = this->merged(ctx, *w)) values.emplace_back(w, std::move(value));
  const Strengths names = used(ctx);
  use_base(ctx);
  for (auto& [w, value] : values) {
    w->value = std::move(value);
    w->stored = {};
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [name, strength] : names) named_.erase(name);
}

}  // namespace ft::inline FTLIB_ABI
