// tests/text/export.cpp: models as GGUF: the tiny models of tests/data opened, written, opened again; files beside
// those that gguf-py wrote; tokenizers through GGUF and back; types by llama.cpp's rules.
#include "../model_fixtures.hpp"
#include "../scratch.hpp"
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>
#include <ftlib/io/gguf.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/models/kit/gguf_mixture.hpp>
#include <ftlib/tensor/quantised.hpp>
#include <ftlib/text/tokenizer_gguf.hpp>

#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

using namespace ft;
using ft::test::Scratch;

namespace {
using ExportLm = CausalLM<float, Cpu>;

std::vector<float> logits_of(ExportLm& lm, int64_t length) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>((17 * i + 5) % 90));
  PackedTokens batch;
  batch.add(tokens);
  return lm.model().logits(lm.context(), batch).to_host(lm.context());
}
double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}
/// Of b to a: the root of the squares of the difference over those of a.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double off = 0, all = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    off += std::pow(double{a[i]} - double{b[i]}, 2);
    all += std::pow(double{a[i]}, 2);
  }
  return std::sqrt(off / all);
}
/// A fixture's folder with a tokenizer; `changes` go into its config.json.
std::filesystem::path folder_of(const Scratch& dir, const std::string& name, const Json& changes) {
  const auto folder = ft::test::tiny_text_model(dir, name.c_str());
  Json config = read_json(folder / "config.json");
  config.merge_patch(changes);
  std::ofstream(folder / "config.json") << config.dump();
  std::ofstream(folder / "tokenizer_config.json") << Json{
      {"eos_token", "<|endoftext|>"}, {"chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}"}};
  return folder;
}
bool has_note(const GgufReport& report, const char* what) {
  return std::any_of(report.notes.begin(), report.notes.end(),
                     [&](const std::string& note) { return note.find(what) != std::string::npos; });
}
std::vector<std::string> hard_strings() {
  std::vector<std::string> texts;
  for (const Json& item : read_json(std::filesystem::path(FTLIB_TEST_DATA) / "tokenizer" / "strings.json"))
    if (item.is_string()) texts.push_back(item.get<std::string>());  // the others are no UTF-8
  REQUIRE(texts.size() > 1000);
  return texts;
}
/// Metadata as a file in memory.
GgufFile in_memory(const GgufMetadata& metadata) {
  auto bytes = std::make_shared<std::vector<std::byte>>(ft::detail::gguf_header("memory", metadata, {}).bytes);
  return GgufFile::parse(*bytes, "memory", bytes);
}
}  // namespace

namespace {
/// What GGUF has no word for in some folders, by its name, and the changes without which the model is exported.
struct Refused {
  const char* said;
  Json without;
};
const std::map<std::string, Refused> refused{
    {"gemma3_tiny", {"query_pre_attn_scalar", {{"query_pre_attn_scalar", 12}}}},
    {"smollm3_tiny", {"no_rope_layers", {{"no_rope_layers", {1, 1, 1}}, {"use_sliding_window", false}}}},
    {"qwen3_moe_tiny", {"the number of experts", {}}}};
/// The changes for a folder; none where no change helps (a layer without experts): its GGUF fixture stands for it.
std::optional<Json> without_refused(const std::string& name) {
  const auto found = refused.find(name);
  if (found == refused.end()) return Json::object();
  return found->second.without.is_null() ? std::optional<Json>() : found->second.without;
}

/// A LoRA of all that may be adapted, experts too, with values that are not zero.
void attach_random(ExportLm& lm, const std::string& name) {
  Lora config{.rank = 3, .alpha = 5};
  if (name.starts_with("qwen3_moe") || name.starts_with("gpt_oss"))
    config.targets = {"q_proj", "k_proj", "v_proj", "o_proj", "experts.gate_up_proj", "experts.down_proj"};
  lm.attach(config);
  for (auto* w : lm.parameters())
    if (w->name.ends_with("lora_B.weight"))
      for (int64_t i = 0; i < w->count(); ++i) w->value.data()[i] = 0.02f * static_cast<float>(7 * i % 11 - 5);
}
std::vector<float> values_of(const GgufFile& file, const std::string& tensor) {
  const auto w = file.tensor(tensor);
  std::vector<float> v(static_cast<std::size_t>(w.shape.count()));
  dequantise_row(w.type, w.data, 0, w.shape.count(), v.data());
  return v;
}
}  // namespace

TEST_CASE("save_gguf: every family's folder comes back with the same logits, tokens and template") {
  const std::set<std::string> windows{"mistral_tiny", "qwen2_tiny", "phi3_tiny"};  // the last llama.cpp leaves out
  for (const std::string& name : ft::test::model_folders()) {
    CAPTURE(name);
    const auto found = refused.find(name);
    const auto write = [&](const Json& changes, const char* type, const Scratch& dir) {
      auto lm = ExportLm::from_pretrained(folder_of(dir, name, changes), {.threads = 2});
      return save_gguf(lm, dir / "out.gguf", {.type = type});
    };
    Json changes = Json::object();
    if (found != refused.end()) {
      const Scratch dir;
      CHECK_THROWS_WITH_AS(write(changes, "f32", dir), doctest::Contains(found->second.said), Error);
      CHECK_FALSE(std::filesystem::exists(dir / "out.gguf"));
      changes = found->second.without;
      if (changes.is_null()) continue;  // of its kind the GGUF fixture is exported
    }
    const Scratch dir;
    auto lm = ExportLm::from_pretrained(folder_of(dir, name, changes), {.threads = 2});
    const auto report = save_gguf(lm, dir / "out.gguf", {.type = "f32"});
    CHECK(report.types.size() == 1);
    CHECK(report.bytes == static_cast<int64_t>(std::filesystem::file_size(dir / "out.gguf")));
    CHECK(has_note(report, "sliding_window") == (windows.count(name) > 0));
    auto again = ExportLm::from_pretrained(dir / "out.gguf", {.threads = 2});
    const int64_t length = windows.count(name) ? 8 : 23;
    const double lost = largest_difference(logits_of(lm, length), logits_of(again, length));
    CHECK(ft::test::evidence(name, "export", lost) <= 1e-5);
    CHECK(again.model().info().max_position_embeddings == lm.model().info().max_position_embeddings);
    const std::string text = "A hard one:  \"x_1\" +  {y}~ <|endoftext|>!";
    CHECK(again.tokenizer().encode(text) == lm.tokenizer().encode(text));
    CHECK(again.tokenizer().chat_template() == lm.tokenizer().chat_template());
    CHECK(again.tokenizer().eos() == lm.tokenizer().eos());
    // Over all logits, for one may be far off: a text's first token gives a delta net v (q k), and where q k is near
    // zero the norm behind it makes a rounding of the embedding or of q, k and v large. It is no single weight's doing.
    struct Halves {
      const char* type;
      double within, each;  // of all logits, and of any
    };
    for (const Halves& halves : {Halves{"f16", 0.004, name == "qwen3_5_heads" ? 0.07 : 0.05}, {"bf16", 0.05, 0.5}}) {
      const char* const type = halves.type;
      CAPTURE(type);
      save_gguf(lm, dir / "small.gguf", {.type = type});
      auto small = ExportLm::from_pretrained(dir / "small.gguf", {.threads = 2});
      const auto wanted = logits_of(lm, length), got = logits_of(small, length);
      const double off = relative_difference(wanted, got);
      CHECK(off > 0);
      if (name == "gpt_oss_tiny" && type == std::string("bf16")) continue;  // a token takes another expert
      CHECK(ft::test::evidence(name, type, off) <= halves.within);
      CHECK(largest_difference(wanted, got) <= halves.each);
    }
  }
}

TEST_CASE("save_gguf: a GGUF leaves as it came, key by key and byte by byte") {
  // Keys that gguf-py's fixtures have and ours have not, or the other way.
  const std::set<std::string> not_written{"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_space_prefix",
                                          "tokenizer.ggml.scores"},
      added{"general.type",
            "general.file_type",
            "tokenizer.ggml.add_eos_token",
            "rope.dimension_count",
            "vocab_size",
            "attention.head_count_kv",
            "attention.key_length",
            "attention.value_length",
            "rope.freq_base_swa",
            "rope.scaling.finetuned",
            "rope.scaling.yarn_beta_fast",
            "rope.scaling.yarn_beta_slow"};
  for (const std::string& name : ft::test::model_ggufs()) {
    CAPTURE(name);
    const Scratch dir;
    const auto from = ft::test::model_data / name;
    auto lm = ExportLm::from_pretrained(from, {.threads = 2});
    const auto report = save_gguf(lm, dir / "out.gguf");
    CHECK(report.copied > 0);
    CHECK(report.requantised == 0);
    const auto theirs = GgufFile::open(from), ours = GgufFile::open(dir / "out.gguf");
    const std::string prefix = theirs.get<std::string>("general.architecture") + ".";
    const auto bare = [&](const std::string& key) { return key.starts_with(prefix) ? key.substr(prefix.size()) : key; };
    const auto text_of = [](const GgufValue& value) {
      std::ostringstream out;
      out << value.index() << ' ';
      std::visit(
          [&]<class V>(const V& v) {
            if constexpr (std::same_as<V, GgufArray>)
              out << static_cast<int>(v.type())
                  << std::string(reinterpret_cast<const char*>(v.bytes().data()), v.bytes().size());
            else out << v;
          },
          value);
      return out.str();
    };
    CHECK((ours.get<int>("general.file_type") == 38) == (name == "gpt_oss_fp4.gguf"));  // LLAMA_FTYPE_MOSTLY_MXFP4_MOE
    const bool spm = theirs.get<std::string>("tokenizer.ggml.model") == "llama";
    for (const auto& [key, value] : theirs.metadata()) {
      const std::string named = key;
      CAPTURE(named);
      if (!ours.find(key)) {
        const bool known = !spm && not_written.count(key) > 0 &&
                           (key != "tokenizer.ggml.scores" || name.starts_with("gemma4"));  // which go by merges
        CHECK(known);
      } else {
        const bool same = text_of(*ours.find(key)) == text_of(value) || key == "tokenizer.ggml.pre";
        CHECK(same);
      }
    }
    for (const auto& [key, value] : ours.metadata()) {
      const std::string named = key;
      CAPTURE(named);
      const bool known = theirs.find(key) || added.count(bare(key)) > 0;
      CHECK(known);
    }
    bool rates = false;
    std::size_t unread = 0;  // Gemma 4's files hold weights that nothing reads
    int unpacked = 0;
    for (const std::string& tensor : theirs.names()) {
      CAPTURE(tensor);
      if (name.starts_with("gemma4") && !ours.contains(tensor)) {
        ++unread;
        continue;
      }
      REQUIRE(ours.contains(tensor));
      const auto a = ours.tensor(tensor), b = theirs.tensor(tensor);
      CHECK(a.shape == b.shape);
      if (name == "qwen35_heads_q4_1.gguf" && tensor.ends_with("ssm_out.weight")) {
        CHECK(a.type == DType::f32);  // whose blocks reach over two heads, so that they were unpacked
        std::vector<float> values(static_cast<std::size_t>(b.shape.count()));
        dequantise_row(b.type, b.data, 0, b.shape.count(), values.data());
        CHECK(std::memcmp(a.data, values.data(), values.size() * sizeof(float)) == 0);
        ++unpacked;
        continue;
      }
      CHECK(a.type == b.type);
      if (!tensor.ends_with(".ssm_a")) {
        CHECK(std::memcmp(a.data, b.data, static_cast<std::size_t>(b.bytes())) == 0);
        continue;
      }
      rates = true;  // which are -e^w of what a model has: their logarithm is rounded
      for (int64_t i = 0; i < b.shape.count(); ++i)
        CHECK(reinterpret_cast<const float*>(a.data)[i] ==
              doctest::Approx(reinterpret_cast<const float*>(b.data)[i]).epsilon(1e-6));
    }
    CHECK(ours.names().size() + unread == theirs.names().size());
    CHECK(unread == (name == "gemma4_q4_1.gguf" ? 9 : 0));
    CHECK(unpacked == (name == "qwen35_heads_q4_1.gguf" ? 2 : 0));
    if (unpacked)
      CHECK(lm.model().info().notes.back().find("2 tensors whose blocks reach over two heads") != std::string::npos);
    auto again = ExportLm::from_pretrained(dir / "out.gguf", {.threads = 2});
    const double off = largest_difference(logits_of(lm, 23), logits_of(again, 23));
    CHECK(ft::test::evidence(name, "export", off) <= (rates ? 1e-5 : 0));
    for (const std::string& text : hard_strings()) {
      const bool same = again.tokenizer().encode(text) == lm.tokenizer().encode(text);
      CHECK(same);
      if (!same) break;
    }
  }
}

TEST_CASE("save_gguf: what a session has in use is in the file, and the model stays as it is") {
  for (const std::string& name : ft::test::model_folders()) {
    const auto changes = without_refused(name);
    if (!changes) continue;
    CAPTURE(name);
    const Scratch dir;
    auto lm = ExportLm::from_pretrained(folder_of(dir, name, *changes), {.threads = 2});
    const auto base = logits_of(lm, 8);
    lm.load_adapter(ft::test::model_data / name / "adapter_trained");
    const auto adapted = logits_of(lm, 8);
    REQUIRE(largest_difference(base, adapted) > 1e-3);
    const auto report = save_gguf(lm, dir / "out.gguf", {.type = "f32"});
    CHECK(report.merged > 0);
    auto again = ExportLm::from_pretrained(dir / "out.gguf", {.threads = 2});
    CHECK(largest_difference(adapted, logits_of(again, 8)) <= 1e-4);
    lm.use_base();
    CHECK(largest_difference(base, logits_of(lm, 8)) == 0);
  }
}

TEST_CASE("save_gguf: a merge into a quantised base is quantised again, and said") {
  const Scratch dir;
  auto lm = ExportLm::from_pretrained(ft::test::model_data / "llama_q4_1.gguf", {.threads = 2});
  lm.attach({.rank = 2});
  const auto report = save_gguf(lm, dir / "out.gguf");
  CHECK(report.merged == 14);
  CHECK(report.requantised == 14);
  CHECK(report.copied == 1);  // the embedding
  std::ostringstream said;
  said << report;
  CHECK(said.str().find("quantised again: 14 tensors") != std::string::npos);
  CHECK(said.str().find("into 14 tensors") != std::string::npos);
  CHECK_THROWS_WITH_AS(save_gguf(lm, ft::test::model_data / "llama_q4_1.gguf"),
                       doctest::Contains("the model's own file"), Error);
  CHECK_THROWS_WITH_AS(save_gguf(lm, dir / "x.gguf", {.type = "q3_k_m"}), doctest::Contains("'q3_k_m' is not known"),
                       Error);
  lm.adapters().base().front()->value = Tensor<float, Cpu>::zeros(lm.context(), lm.adapters().base().front()->shape());
  lm.adapters().base().front()->value.data()[7] = NAN;
  CHECK_THROWS_WITH_AS(save_gguf(lm, dir / "x.gguf", {.type = "q8_0"}), doctest::Contains("tensor 'token_embd.weight'"),
                       Error);
  CHECK_FALSE(std::filesystem::exists(dir / "x.gguf"));
}

TEST_CASE("text/tokenizer_gguf: tokenizers come back from GGUF with the same ids") {
  const auto data = std::filesystem::path(FTLIB_TEST_DATA) / "tokenizer";
  // How many of the strings GGUF cuts otherwise, and what the notes say of it.
  struct Known {
    const char* name;
    int64_t differ;
    const char* because;
  };
  for (const auto& [name_, wanted, because] :
       {Known{"gpt2.json", 4, "3 added tokens take white space"}, Known{"smollm.json", 0, "3 rows"},
        Known{"llama3.json", 0, "3 rows"}, Known{"qwen2.json", 20, "2 added tokens take white space"},
        Known{"gemma.json", 138, "tokens that no merge makes"},
        Known{"llama2.json", 6, "1 added tokens take white space"}}) {
    const std::string name = name_;
    CAPTURE(name);
    const Tokenizer tokenizer = Tokenizer::from_file(data / name);
    std::vector<std::string> notes;
    const auto metadata = gguf_tokenizer(tokenizer.spec(), tokenizer.vocab_size() + 3, -1, notes);
    const Tokenizer again = Tokenizer::from_gguf(in_memory(metadata));
    CHECK(again.vocab_size() == tokenizer.vocab_size() + 3);
    CHECK(std::any_of(notes.begin(), notes.end(), [](const auto& n) { return n.find("3 rows") == 0; }));
    int64_t differ = 0;
    std::string first;
    for (const std::string& text : hard_strings()) {
      if (again.encode(text) == tokenizer.encode(text)) continue;
      if (!differ++) first = text;
    }
    CAPTURE(first);
    CHECK(differ == wanted);
    std::string said;
    for (const std::string& note : notes) said += note + '\n';
    CAPTURE(said);
    CHECK(said.find(because) != said.npos);
  }
  std::vector<std::string> notes;
  CHECK_THROWS_WITH_AS(gguf_tokenizer(tokenizer_spec_from_file(data / "unigram.model"), 1000, -1, notes),
                       doctest::Contains("a unigram tokenizer"), Error);
}

TEST_CASE("text/tokenizer_gguf: Gemma 4's kind is Hugging Face's, is written with its merges, and comes back") {
  const Json expected = read_json(ft::test::model_data / "gemma4_q4_1.expected.json")["tokenizer"];
  const Tokenizer tokenizer = Tokenizer::from_file(ft::test::model_data / "gemma4_q4_1.gguf");
  std::vector<std::string> notes;
  const auto rows = static_cast<int64_t>(tokenizer.vocab_size());
  const auto metadata = gguf_tokenizer(tokenizer.spec(), rows, -1, notes, /*by_merges=*/true);
  CHECK(notes.empty());
  const Tokenizer again = Tokenizer::from_gguf(in_memory(metadata));
  const GgufFile file = in_memory(metadata);
  CHECK(file.get<std::string>("tokenizer.ggml.model") == "gemma4");
  for (const Json& item : expected) {
    const auto text = item["text"].get<std::string>();
    CAPTURE(text);
    CHECK(tokenizer.encode(text) == item["ids"].get<std::vector<int32_t>>());
    CHECK(again.encode(text) == tokenizer.encode(text));
    CHECK(again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text)));
  }
  TokenizerSpec over = tokenizer.spec();
  over.tokens.push_back(".\n");
  over.types.push_back(TokenizerSpec::Type::normal);
  over.merges.push_back(". \n");
  gguf_tokenizer(over, rows + 1, -1, notes, /*by_merges=*/true);
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("1 merges reach over the end of a line") == 0);
}

TEST_CASE(
    "save_gguf_adapter: laid over the base's GGUF as llama.cpp does it, it is the merged model, and is read back") {
  std::vector<std::pair<std::string, std::string>> cases{{"gpt_oss_tiny", "experts_trained"}};
  for (const std::string& name : ft::test::model_folders()) cases.emplace_back(name, "adapter_trained");
  for (const std::string& name : ft::test::model_ggufs()) cases.emplace_back(name, "");  // one of our own
  for (const auto& one : cases) {
    const std::string &name = one.first, &adapter = one.second;
    const auto changes = without_refused(name);
    if (!changes) continue;
    CAPTURE(name);
    CAPTURE(adapter);
    const Scratch dir;
    const auto from = adapter.empty() ? ft::test::model_data / name : folder_of(dir, name, *changes);
    auto lm = ExportLm::from_pretrained(from, {.threads = 2});
    save_gguf(lm, dir / "base.gguf", {.type = "f32"});
    if (adapter.empty()) attach_random(lm, name);
    else lm.load_adapter(ft::test::model_data / name / adapter);
    save_gguf(lm, dir / "merged.gguf", {.type = "f32"});
    const auto report = save_gguf_adapter(lm, dir / "lora.gguf");
    CHECK(report.adapted > 0);
    const auto base = GgufFile::open(dir / "base.gguf"), merged = GgufFile::open(dir / "merged.gguf"),
               lora = GgufFile::open(dir / "lora.gguf");
    CHECK(lora.get<std::string>("general.type") == "adapter");
    CHECK(lora.get<std::string>("adapter.type") == "lora");
    CHECK(lora.get<std::string>("general.architecture") == base.get<std::string>("general.architecture"));
    const auto alpha = lora.get<float>("adapter.lora.alpha");
    std::size_t pairs = 0;
    for (const std::string& tensor : base.names()) {
      CAPTURE(tensor);
      auto w = values_of(base, tensor);
      if (lora.contains(tensor + ".lora_a")) {
        ++pairs;
        const auto a = values_of(lora, tensor + ".lora_a"), b = values_of(lora, tensor + ".lora_b");
        const Shape shape = base.info(tensor).shape;
        const int64_t experts = shape.rank() == 3 ? shape[0] : 1, rows = shape[-2], cols = shape[-1],
                      rank = lora.info(tensor + ".lora_a").shape[-2];
        const auto of_all = [&](const Shape& own) { return shape.rank() == 3 ? Shape{experts, own[0], own[1]} : own; };
        REQUIRE(lora.info(tensor + ".lora_a").shape == of_all({rank, cols}));
        REQUIRE(lora.info(tensor + ".lora_b").shape == of_all({rows, rank}));
        for (int64_t e = 0; e < experts; ++e)
          for (int64_t i = e * rows; i < (e + 1) * rows; ++i)
            for (int64_t j = 0; j < cols; ++j)
              for (int64_t r = 0; r < rank; ++r)
                w[static_cast<std::size_t>(i * cols + j)] += alpha / static_cast<float>(rank) *
                                                             b[static_cast<std::size_t>(i * rank + r)] *
                                                             a[static_cast<std::size_t>((e * rank + r) * cols + j)];
      }
      CHECK(largest_difference(w, values_of(merged, tensor)) <= 1e-5);
    }
    CHECK(2 * pairs == lora.names().size());

    // And read back: over what it was made for and over its GGUF, the same model.
    const auto wanted = logits_of(lm, 12);
    const bool windowed = name == "mistral_tiny" || name == "qwen2_tiny";  // which their GGUF does not say
    double most = 0;
    for (const auto& path : {from, windowed ? from : dir / "base.gguf"}) {
      auto other = ExportLm::from_pretrained(path, {.threads = 2});
      CHECK(largest_difference(logits_of(other, 12), wanted) > 1e-4);
      other.load_adapter(dir / "lora.gguf");
      most = std::max(most, largest_difference(logits_of(other, 12), wanted));
    }
    CHECK(ft::test::evidence(name, "lora_gguf", most) <= (adapter.empty() ? 2e-5 : 1e-5));
  }
}

TEST_CASE(
    "read_gguf_adapter: experts' pairs that share no A get ranks of their own in the stack, and one may be missing") {
  const Scratch dir;
  auto lm = ExportLm::from_pretrained(ft::test::model_data / "qwen3_moe_q4_1.gguf", {.threads = 1});
  save_gguf(lm, dir / "base.gguf", {.type = "f32"});
  const auto base = GgufFile::open(dir / "base.gguf");
  const std::string gate = "blk.1.ffn_gate_exps.weight", up = "blk.1.ffn_up_exps.weight";
  const Shape shape = base.info(gate).shape;
  const auto numbers = [](int64_t n, float first) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = first + 0.01f * static_cast<float>(i % 13);
    return v;
  };
  struct Pair {
    std::string name;
    int64_t rank;
    std::vector<float> a, b;
  };
  const auto pair = [&](const std::string& name, int64_t rank, float first) {
    return Pair{name, rank, numbers(shape[0] * rank * shape[2], first), numbers(shape[0] * shape[1] * rank, -first)};
  };
  const auto write = [&](const std::vector<Pair>& pairs, int64_t experts) {
    std::vector<GgufTensor> tensors;
    for (const Pair& p : pairs) {
      tensors.push_back({p.name + ".lora_a", DType::f32, {experts, p.rank, shape[2] * shape[0] / experts}});
      tensors.push_back({p.name + ".lora_b", DType::f32, {experts, shape[1] * shape[0] / experts, p.rank}});
    }
    GgufWriter file(dir / "experts.gguf",
                    {{"general.architecture", std::string("qwen3moe")},
                     {"general.type", std::string("adapter")},
                     {"adapter.type", std::string("lora")},
                     {"adapter.lora.alpha", 6.0f}},
                    tensors);
    for (const Pair& p : pairs) {
      file.put(std::as_bytes(std::span(p.a)));
      file.put(std::as_bytes(std::span(p.b)));
    }
    file.commit();
  };
  for (const auto& pairs : {std::vector{pair(gate, 2, 0.2f), pair(up, 3, -0.1f)}, std::vector{pair(up, 2, 0.1f)}}) {
    write(pairs, shape[0]);
    lm.load_adapter(dir / "experts.gguf");
    save_gguf(lm, dir / "merged.gguf", {.type = "f32"});
    const auto merged = GgufFile::open(dir / "merged.gguf");
    for (const std::string& name : {gate, up}) {
      auto wanted = values_of(base, name);
      for (const Pair& p : pairs)
        for (int64_t i = 0; i < shape[0] * shape[1] && p.name == name; ++i)
          for (int64_t j = 0; j < shape[2]; ++j)
            for (int64_t r = 0; r < p.rank; ++r)
              wanted[static_cast<std::size_t>(i * shape[2] + j)] +=
                  6 / static_cast<float>(p.rank) * p.b[static_cast<std::size_t>(i * p.rank + r)] *
                  p.a[static_cast<std::size_t>((i / shape[1] * p.rank + r) * shape[2] + j)];
      CHECK(largest_difference(wanted, values_of(merged, name)) <= 1e-5);
    }
  }
  write({pair(gate, 2, 0.2f)}, shape[0] / 2);
  CHECK_THROWS_WITH_AS(lm.load_adapter(dir / "experts.gguf"), doctest::Contains("blk.1.ffn_gate_exps.weight'"), Error);
}

TEST_CASE("Gemma 4 from GGUF: layers whose values are their keys are all without a window, or refused by the weight") {
  const auto from = GgufFile::open(ft::test::model_data / "gemma4_kv_q4_1.gguf");
  const GgufMetadata keys(from.metadata().begin(), from.metadata().end());
  for (const bool windowed : {true, false}) {  // one that has a window lacks it; one that has none has it
    const Scratch dir;
    std::vector<GgufTensor> tensors;
    std::vector<std::string> sources;
    for (const std::string& name : from.names()) {
      if (windowed && name == "blk.1.attn_v.weight") continue;
      tensors.push_back({name, from.tensor(name).type, from.info(name).shape});
      sources.push_back(name);
    }
    if (!windowed) {
      tensors.push_back(
          {"blk.2.attn_v.weight", from.tensor("blk.2.attn_k.weight").type, from.info("blk.2.attn_k.weight").shape});
      sources.push_back("blk.2.attn_k.weight");
    }
    GgufWriter file(dir / "other.gguf", keys, tensors);
    for (const std::string& name : sources) {
      const auto w = from.tensor(name);
      file.put({w.data, static_cast<std::size_t>(w.bytes())});
    }
    file.commit();
    CHECK_THROWS_WITH_AS(ExportLm::from_pretrained(dir / "other.gguf", {.threads = 1}),
                         doctest::Contains(windowed ? "blk.1.attn_v.weight is missing"
                                                    : "key-value heads of 32, others of its type have others"),
                         Error);
  }
}

TEST_CASE("calibrate: squares of channels are those of what is multiplied, an adapter's and an expert's too") {
  const Scratch dir;
  auto lm = ExportLm::from_pretrained(folder_of(dir, "gpt_oss_tiny", Json::object()), {.threads = 1});
  const std::string text = "A quantiser is told which channels matter. It reads a text, and looks what comes by.";
  const double before = perplexity(lm, text);
  const Importance plain = calibrate(lm, text);
  CHECK(plain.perplexity == doctest::Approx(before).epsilon(1e-6));
  CHECK(perplexity(lm, text) == before);  // nothing hangs there any longer

  // The first layer's q reads the normed embedding.
  const auto ids = lm.tokenizer().encode(text, {.special = Special::as_text});
  auto tokens = lm.prompt().beginning();
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  std::map<std::string, Parameter<float, Cpu>*> by_name;
  for (auto* w : lm.parameters()) by_name[w->name] = w;
  const auto table = dense(lm.context(), *by_name.at("model.embed_tokens.weight")).to_host(lm.context()),
             norm = by_name.at("model.layers.0.input_layernorm.weight")->value.to_host(lm.context());
  const std::size_t C = norm.size();
  std::vector<double> squares(C);
  for (const int32_t id : tokens) {
    double sum = 0;
    for (std::size_t c = 0; c < C; ++c) sum += std::pow(double{table[static_cast<std::size_t>(id) * C + c]}, 2);
    for (std::size_t c = 0; c < C; ++c)
      squares[c] += std::pow(double{table[static_cast<std::size_t>(id) * C + c]} * double{norm[c]}, 2) /
                    (sum / static_cast<double>(C) + 1e-5) / static_cast<double>(tokens.size());
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const auto& found = plain.squares.at(str("model.layers.0.self_attn.", name, ".weight"));
    REQUIRE(found.size() == C);
    for (std::size_t c = 0; c < C; ++c)
      CHECK(static_cast<double>(found[c]) == doctest::Approx(squares[c]).epsilon(1e-4));
  }
  // Over an expert's tokens; gate and up see the same. The router sees them all.
  const auto& router = plain.squares.at("model.layers.1.mlp.router.weight");
  int64_t experts = 0;
  for (int e = 0; e < 4; ++e) {
    const auto gate = plain.squares.find(str("model.layers.1.mlp.experts.", e, ".gate_proj.weight"));
    if (gate == plain.squares.end()) continue;
    ++experts;
    CHECK(gate->second == plain.squares.at(str("model.layers.1.mlp.experts.", e, ".up_proj.weight")));
    CHECK(gate->second.size() == router.size());
    CHECK(plain.squares.contains(str("model.layers.1.mlp.experts.", e, ".down_proj.weight")));
  }
  CHECK(experts >= 2);
  CHECK(plain.squares.contains("lm_head.weight"));

  // With an adapter, on experts too, it is the merged model that is watched.
  lm.load_adapter(ft::test::model_data / "gpt_oss_tiny" / "experts_trained");
  const Importance adapted = calibrate(lm, text);
  lm.merge();
  const Importance merged = calibrate(lm, text);
  CHECK(adapted.perplexity == doctest::Approx(merged.perplexity).epsilon(1e-5));
  CHECK(adapted.perplexity != doctest::Approx(before).epsilon(1e-4));
  REQUIRE(adapted.squares.size() == merged.squares.size());
  for (const auto& one : adapted.squares) {
    CAPTURE(one.first);
    const std::vector<float>& of_merged = merged.squares.at(one.first);
    for (std::size_t c = 0; c < one.second.size(); ++c)
      CHECK(one.second[c] == doctest::Approx(double{of_merged.at(c)}).epsilon(1e-3));
  }
}

TEST_CASE(
    "save_gguf: importance lowers the error that it weighs, in every tensor; experts that no token chose are told") {
  for (const std::string name : {"llama_untied", "gpt_oss_tiny"})
    for (const std::string type : {"q4_0", "q5_1"}) {
      CAPTURE(name);
      CAPTURE(type);
      const Scratch dir;
      auto lm = ExportLm::from_pretrained(folder_of(dir, name, Json::object()), {.threads = 2});
      Importance importance =
          calibrate(lm, "Some channels of a model carry more than others, and some hardly anything.");
      if (name == "gpt_oss_tiny")
        for (const char* part : {"gate", "up", "down"})
          importance.squares.erase(str("model.layers.1.mlp.experts.2.", part, "_proj.weight"));
      save_gguf(lm, dir / "dense.gguf", {.type = "f32"});
      save_gguf(lm, dir / "plain.gguf", {.type = type});
      const auto report = save_gguf(lm, dir / "weighed.gguf", {.type = type, .importance = &importance});
      CHECK(report.weighed > 0);
      CHECK((report.unweighed >= 3) == (name == "gpt_oss_tiny"));
      const auto dense = GgufFile::open(dir / "dense.gguf"), plain = GgufFile::open(dir / "plain.gguf"),
                 weighed = GgufFile::open(dir / "weighed.gguf");
      const TensorMap map = lm.model().gguf().map;
      double all_plain = 0, all_weighed = 0;
      for (const std::string& tensor : dense.names()) {
        const DType made = plain.tensor(tensor).type;
        if (!is_quantised(made) || made == DType::q8_0) continue;
        CAPTURE(tensor);
        const Shape shape = dense.info(tensor).shape;
        std::vector<std::string> names;  // of experts each
        map.to_hf(
            {tensor}, [&](const std::string& of) { return dense.tensor(of); },
            [&](const std::string& hf, const Stored<Cpu>&) { names.push_back(hf); }, "dense");
        const auto x = values_of(dense, tensor), a = values_of(plain, tensor), b = values_of(weighed, tensor);
        const auto cols = static_cast<std::size_t>(shape.back()), share = x.size() / names.size();
        double of_plain = 0, of_weighed = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          const auto found = importance.squares.find(names[i / share]);
          const double w = found == importance.squares.end() ? 1 : double{found->second.at(i % cols)};
          of_plain += w * std::pow(double{a[i]} - double{x[i]}, 2);
          of_weighed += w * std::pow(double{b[i]} - double{x[i]}, 2);
        }
        CHECK(of_weighed <= of_plain * 1.0001);
        all_plain += of_plain;
        all_weighed += of_weighed;
      }
      INFO(all_weighed, " of ", all_plain);
      CHECK(all_weighed <= 0.98 * all_plain);
    }
}

TEST_CASE("read_gguf_adapter: pairs of a weight's parts become one, with a rank and a scale of their own") {
  const Scratch dir;
  auto lm = ExportLm::from_pretrained(folder_of(dir, "granite4_tiny", Json::object()), {.threads = 1});
  const GgufDescription model = lm.model().gguf();
  const Parameter<float, Cpu>* fused = nullptr;  // gate and up
  for (const auto* w : lm.parameters())
    if (w->name.ends_with("layers.1.shared_mlp.input_linear.weight")) fused = w;
  REQUIRE(fused);
  const int64_t rows = fused->shape()[0] / 2, cols = fused->shape()[1];
  const auto numbers = [](int64_t n, float first) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = first + 0.01f * static_cast<float>(i % 7);
    return v;
  };
  struct Pair {
    std::string name;
    int64_t rank;
    std::vector<float> a, b;
  };
  const GgufMetadata metadata{{"general.architecture", model.architecture},
                              {"general.type", std::string("adapter")},
                              {"adapter.type", std::string("lora")},
                              {"adapter.lora.alpha", 6.0f}};
  const auto write = [&](const std::vector<Pair>& pairs, const GgufMetadata& keys) {
    std::vector<GgufTensor> tensors;
    for (const Pair& p : pairs) {
      tensors.push_back({p.name + ".lora_a", DType::f32, {p.rank, cols}});
      tensors.push_back({p.name + ".lora_b", DType::f32, {static_cast<int64_t>(p.b.size()) / p.rank, p.rank}});
    }
    GgufWriter file(dir / "parts.gguf", keys, tensors);
    for (const Pair& p : pairs) {
      file.put(std::as_bytes(std::span(p.a)));
      file.put(std::as_bytes(std::span(p.b)));
    }
    file.commit();
  };
  const auto pair = [&](const char* name, int64_t rank, float first) {
    return Pair{name, rank, numbers(rank * cols, first), numbers(rows * rank, first / 2)};
  };
  const Pair gate = pair("blk.1.ffn_gate.weight", 2, 0.3f), up = pair("blk.1.ffn_up.weight", 3, -0.2f);
  Pair twin = pair("blk.1.ffn_up.weight", 2, 0.3f);  // shares its A with gate's
  twin.b = numbers(rows * 2, 0.7f);
  const std::vector<float> before = dense(lm.context(), *fused).to_host(lm.context());
  for (const auto& pairs : {std::vector{gate, up}, std::vector{up}, std::vector{gate, twin}}) {
    write(pairs, metadata);
    CHECK(lm.load_adapter(dir / "parts.gguf").size() <= 1);  // of another base
    const auto merged = lm.adapters().merged(lm.context(), *fused).to_host(lm.context());
    auto wanted = before;
    for (const Pair& p : pairs)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j)
          for (int64_t r = 0; r < p.rank; ++r)
            wanted[static_cast<std::size_t>((p.name == gate.name ? i : rows + i) * cols + j)] +=
                6 / static_cast<float>(p.rank) * p.b[static_cast<std::size_t>(i * p.rank + r)] *
                p.a[static_cast<std::size_t>(r * cols + j)];
    CHECK(largest_difference(merged, wanted) <= 1e-5);
    const auto ranks = lm.adapter_data().tensors.begin()->second.shape;
    CHECK(ranks[0] == (pairs.size() == 1 ? 3 : pairs[1].rank == 2 ? 2 : 5));
  }

  const auto refused_value = [&](const char* key, const GgufValue& value, const char* why) {
    GgufMetadata other = metadata;
    std::erase_if(other, [&](const auto& entry) { return entry.first == key; });
    if (!std::holds_alternative<bool>(value)) other.emplace_back(key, value);
    write({gate}, other);
    CHECK_THROWS_WITH_AS(lm.load_adapter(dir / "parts.gguf"), doctest::Contains(why), Error);
  };
  refused_value("general.type", std::string("model"), "is a model, and no adapter");
  refused_value("adapter.type", std::string("control"), "adapter.type 'control'");
  refused_value("general.architecture", std::string("gpt2"), "an adapter for gpt2");
  refused_value("adapter.lora.alpha", false, "adapter.lora.alpha' is missing");
  refused_value("adapter.alora.invocation_tokens", uint32_t{1}, "adapter.alora.invocation_tokens is not known");
  const auto refused_pair = [&](Pair p, const char* why) {
    write({std::move(p)}, metadata);
    CHECK_THROWS_WITH_AS(lm.load_adapter(dir / "parts.gguf"), doctest::Contains(why), Error);
  };
  refused_pair(pair("token_embd.weight", 2, 0), "adapts the embedding");
  refused_pair(pair("blk.7.ffn_up.weight", 2, 0), "'blk.7.ffn_up.weight' is not part of this architecture");
  write({}, metadata);
  CHECK_THROWS_WITH_AS(lm.load_adapter(dir / "parts.gguf"), doctest::Contains("no pair"), Error);
}

TEST_CASE("save_gguf_adapter: scales of their own go into B, and what GGUF does not hold is refused by name") {
  const Scratch dir;
  auto lm = ExportLm::from_pretrained(folder_of(dir, "llama_tiny", Json::object()), {.threads = 1});
  CHECK_THROWS_WITH_AS(save_gguf_adapter(lm, dir / "x.gguf"), doctest::Contains("there is no adapter"), Error);
  lm.attach({.rank = 2, .alpha = 4, .rank_pattern = {{"q_proj", 4}}, .alpha_pattern = {{"v_proj", 12}}});
  for (auto* w : lm.parameters())
    if (w->name.ends_with("lora_B.weight")) fill(lm.context(), w->value.view(), 0.5f);
  const auto report = save_gguf_adapter(lm, dir / "lora.gguf");
  CHECK(has_note(report, "2 of 14 pairs have another scale"));
  const auto lora = GgufFile::open(dir / "lora.gguf");
  CHECK(lora.get<float>("adapter.lora.alpha") == 4);
  const auto first_of = [&](const char* name) { return ft::detail::load<float>(lora.tensor(name).data); };
  CHECK(first_of("blk.0.attn_q.weight.lora_b") == 0.5f);  // rank 4 of alpha 4: llama.cpp divides by B's rank
  CHECK(first_of("blk.1.attn_v.weight.lora_b") == 1.5f);
  lm.attach({.rank = 2, .kind = "dora"});
  CHECK_THROWS_WITH_AS(save_gguf_adapter(lm, dir / "x.gguf"), doctest::Contains("kind 'dora'"), Error);
  lm.attach({.rank = 2, .modules_to_save = {"norm"}});
  CHECK_THROWS_WITH_AS(save_gguf_adapter(lm, dir / "x.gguf"),
                       doctest::Contains("input_layernorm.weight', which is trained whole (5 such)"), Error);
  CHECK_FALSE(std::filesystem::exists(dir / "x.gguf"));
}
