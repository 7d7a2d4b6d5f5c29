// tests/adapters/peft.cpp: adapters of each kind beside peft's: read, trained, written again; settings that are
// refused; formats in memory. Fixtures by tools/make_adapter_fixtures.py.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <cstdlib>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/finetune.hpp>
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/tensor/quantised.hpp>

#include <set>

namespace peft_test {
namespace {
using namespace ft;
using ft::test::Scratch;
using Lm = CausalLM<float, Cpu>;
const std::filesystem::path base_folder = std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_untied",
                            fixtures = std::filesystem::path(FTLIB_TEST_DATA) / "adapters";

PackedTokens pack(const Json& sequences) {
  PackedTokens batch;
  for (const Json& s : sequences) {
    const auto tokens = s["tokens"].get<std::vector<int32_t>>(), wanted = s["targets"].get<std::vector<int32_t>>();
    batch.add(tokens);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (i > 0 && !wanted[i]) batch.targets[batch.targets.size() - tokens.size() + i - 1] = ignored_target;
  }
  return batch;
}
struct PeftCase {
  Json expected;
  SafetensorsFile arrays;
  Lm lm = Lm::from_pretrained(base_folder, {.threads = 1});

  explicit PeftCase(const std::string& name)
      : expected(read_json(fixtures / name / "expected.json")),
        arrays(SafetensorsFile::open(fixtures / name / "expected.safetensors")) {}
  std::vector<float> logits() {
    const NoGrad off(lm.context());
    PackedTokens batch;
    batch.add(expected["tokens"].get<std::vector<int32_t>>());
    return lm.model().logits(lm.context(), batch).to_host(lm.context());
  }
  /// For tools/check_peft_roundtrip.py, which opens the folder with peft.
  void leave(const std::string& name) {
    const char* to = std::getenv("FTLIB_PEFT_OUT");
    if (!to) return;
    std::filesystem::create_directories(to);
    const auto folder = std::filesystem::path(to) / name;
    lm.save_adapter(folder, {.base = base_folder.string()});
    write_atomically(folder / "logits.json", Json{{"tokens", expected["tokens"]}, {"logits", logits()}}.dump());
  }
  double difference(const std::string& name) {
    const auto got = logits();
    const auto tensor = arrays.tensor(name);
    std::vector<float> wanted(static_cast<std::size_t>(tensor.shape.count()));
    dequantise_row(tensor.type, tensor.data, 0, tensor.shape.count(), wanted.data());
    REQUIRE(got.size() == wanted.size());
    double most = 0;
    for (std::size_t i = 0; i < got.size(); ++i) most = std::max(most, std::abs(double{got[i]} - double{wanted[i]}));
    return most;
  }
};

TEST_CASE("peft: ten steps of DoRA, rsLoRA with patterns, modules_to_save, the head, and LoRA+ are peft's") {
  const Json batches = read_json(base_folder / "expected.json")["training"]["batches"];
  for (const std::string name : {"dora", "patterns", "saved", "head", "plus"}) {
    CAPTURE(name);
    Scratch dir;
    PeftCase c(name);
    CHECK(c.lm.load_adapter(fixtures / name / "initial") == std::vector<std::string>{});
    CHECK(c.difference("initial.logits") <= 1e-4);
    std::vector<Parameter<float, Cpu>*> trained;
    for (auto* w : c.lm.parameters())
      if (w->trainable) trained.push_back(w);
    ParameterGroups groups;
    if (name == "plus") groups.lr_scale = lora_plus(16);
    AdamWOptimizer<float, Cpu> optimizer({.lr = 1e-3f, .weight_decay = 0.01f}, groups);
    for (std::size_t step = 0; step < batches.size(); ++step) {
      CAPTURE(step);
      const auto batch = pack(batches[step]);
      zero_grad(std::span<Parameter<float, Cpu>* const>(trained));
      Tape tape(c.lm.context());
      const auto loss = c.lm.loss_sum(batch);
      const auto n = static_cast<float>(batch.target_count());
      tape.backward(loss, Tensor<float, Cpu>(c.lm.context(), loss.shape(), {1.0f / n}));
      const float norm = clip_grad_norm(c.lm.context(), std::span<Parameter<float, Cpu>* const>(trained), 1.0f);
      optimizer.step(c.lm.context(), trained, 1e-3f);
      CHECK(std::abs(static_cast<double>(loss.item(c.lm.context()) / n) - c.expected["losses"][step].get<double>()) <=
            1e-4);
      CHECK(norm == doctest::Approx(c.expected["grad_norms"][step].get<double>()).epsilon(1e-3));
    }
    CHECK(c.difference("trained.logits") <= 1e-3);
    c.leave(name);

    // Peft's trained adapter, and the same written by us.
    c.lm.load_adapter(fixtures / name / "trained");
    CHECK(c.difference("trained.logits") <= 1e-4);
    c.lm.save_adapter(dir / "again");
    const auto theirs = SafetensorsFile::open(fixtures / name / "trained/adapter_model.safetensors"),
               ours = SafetensorsFile::open(dir / "again/adapter_model.safetensors");
    for (const std::string& key : theirs.names()) {
      if (key.ends_with("base_layer.weight")) continue;
      CAPTURE(key);
      CHECK(std::ranges::equal(ours.bytes(key), theirs.bytes(key)));
    }
    const Json config = read_json(dir / "again/adapter_config.json"),
               wanted = read_json(fixtures / name / "trained/adapter_config.json");
    for (const char* key : {"peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "base_model_name_or_path"})
      CHECK(config[key] == wanted[key]);
    const auto listed = [](const Json& list) {
      return list.is_null() ? std::set<std::string>{} : list.get<std::set<std::string>>();
    };
    CHECK(listed(config["target_modules"]) == listed(wanted["target_modules"]));
    CHECK(listed(config.value("modules_to_save", Json())) == listed(wanted["modules_to_save"]));
    CHECK(config.value("rank_pattern", Json::object()) == wanted["rank_pattern"]);
    CHECK(config.value("alpha_pattern", Json::object()) == wanted["alpha_pattern"]);
    c.lm.load_adapter(dir / "again");
    CHECK(c.difference("trained.logits") <= 1e-4);
    c.lm.merge();
    CHECK(c.difference("trained.logits") <= 2e-4);
  }
}

TEST_CASE("peft: PiSSA and OLoRA are read as peft reads them, and written as what they are on the whole base") {
  for (const std::string name : {"pissa", "olora"}) {
    CAPTURE(name);
    Scratch dir;
    PeftCase c(name);
    const auto told = c.lm.load_adapter(fixtures / name / "trained");
    CHECK(told.size() == 1);
    CHECK(c.difference("exact.logits") <= 1e-4);
    CHECK(c.difference("trained.logits") <= 5e-4);  // peft decomposes in float32
    c.lm.save_adapter(dir / "plain");
    const Json config = read_json(dir / "plain/adapter_config.json");
    CHECK(config["r"] == 6);
    CHECK(config["init_lora_weights"] == true);
    c.leave(name);
    PeftCase again(name);
    CHECK(again.lm.load_adapter(dir / "plain").empty());
    CHECK(again.difference("exact.logits") <= 1e-4);
  }
}

TEST_CASE(
    "peft: what changes what an adapter computes is refused by its name, what does not is read; the rest is told") {
  const std::filesystem::path plain = fixtures / "plus" / "trained";
  const auto tensors = SafetensorsFile::open(plain / "adapter_model.safetensors");
  const Json original = read_json(plain / "adapter_config.json");
  auto lm = Lm::from_pretrained(base_folder, {.threads = 1});
  std::vector<TensorEntry> entries;
  for (const auto& key : tensors.names()) entries.push_back(entry(key, tensors.tensor(key)));
  const auto read = [&](const Json& change, const std::vector<TensorEntry>& with) {
    Json config = original;
    config.update(change);
    const auto bytes = safetensors_bytes("changed", with);
    return lm.adapters().put(lm.context(), "a", read_peft(config.dump(), bytes, "changed"));
  };
  const auto refused = [&](const Json& change, const char* why) {
    CAPTURE(change.dump());
    CHECK_THROWS_WITH_AS(read(change, entries), doctest::Contains(why), Error);
    CHECK(lm.adapters().names().empty());
  };
  refused({{"peft_type", "IA3"}}, "peft_type 'IA3' is not supported");
  refused({{"init_lora_weights", "loftq"}}, "init_lora_weights 'loftq' is not supported");
  refused({{"init_lora_weights", "corda"}}, "init_lora_weights 'corda' is not supported");
  refused({{"alora_invocation_tokens", {5, 6}}}, "alora_invocation_tokens is not supported");
  refused({{"bias", "all"}}, "bias 'all' is not supported");
  refused({{"lora_bias", true}}, "lora_bias is not supported");
  refused({{"layer_replication", {{0, 1}}}}, "layer_replication is not supported");
  refused({{"trainable_token_indices", {5}}}, "trainable_token_indices is not supported");
  refused({{"target_parameters", {"x"}}}, "target_parameters is not supported");
  refused({{"use_qalora", true}}, "use_qalora is not supported");
  refused({{"kasa_config", {{"x", 1}}}}, "kasa_config is not supported");
  refused({{"ensure_weight_tying", true}}, "ensure_weight_tying is not supported");
  refused({{"use_dora", true}}, "has no partner");
  refused({{"r", 8}}, "the model and rank 8 ask for");
  refused({{"r", 0}}, "rank 0 is no rank");
  refused({{"lora_alpha", nullptr}}, "lora_alpha");
  refused({{"rank_pattern", {{"q_proj", 8}}}}, "rank 8 ask for");
  refused({{"alpha_pattern", {{"q_(proj", 8}}}}, "has a group without an end");
  auto changed = entries;
  changed.pop_back();
  CHECK_THROWS_WITH_AS(read(Json::object(), changed), doctest::Contains("has no partner"), Error);
  changed = entries;
  const float more[400] = {};
  changed.push_back({"base_model.model.model.embed_tokens.lora_embedding_A", DType::f32, {4, 97}, more});
  CHECK_THROWS_WITH_AS(read(Json::object(), changed), doctest::Contains(".lora_embedding_A is not supported"), Error);
  changed = entries;
  std::vector<float> nan(static_cast<std::size_t>(entries[0].shape.count()), 0);
  nan[1] = NAN;
  changed[0].data = nan.data();
  CHECK_THROWS_WITH_AS(read(Json::object(), changed), doctest::Contains("': element 1 is nan"), Error);

  for (const char* name : {"gaussian", "eva", "orthogonal"})
    CHECK(read({{"init_lora_weights", name}}, entries) == std::vector<std::string>{});
  CHECK(read({{"exclude_modules", {"gate_proj"}}, {"target_modules", ".*_proj"}, {"auto_mapping", {{"a", "b"}}}},
             entries) == std::vector<std::string>{});
  CHECK(read({{"a_new_setting", 3}}, entries) ==
        std::vector<std::string>{"changed: adapter_config.json: key 'a_new_setting' is not known and was ignored"});
  CHECK(read({{"modules_to_save", {"norm"}}}, entries).front().find("of which there is no tensor") !=
        std::string::npos);
  {  // tensors of layers that target_modules does not mean, and layers that it means without tensors
    std::string module = entries.front().name.substr(std::string("base_model.model.").size());
    module = module.substr(0, module.find(".lora_"));
    auto some = entries;
    std::erase_if(some, [&](const auto& e) { return e.name.find(module) != std::string::npos; });
    REQUIRE(some.size() + 2 == entries.size());
    const auto told = read(Json::object(), some);
    REQUIRE(told.size() == 1);
    CHECK(told.front().find("of 1 layers that target_modules names there are no tensors") != std::string::npos);
    CHECK(told.front().find('\'' + module + '\'') != std::string::npos);
    CHECK(read({{"layers_to_transform", {0}}}, some).empty());
    const auto others = read({{"target_modules", ".*no_such_proj"}}, entries);
    REQUIRE(others.size() == 1);
    CHECK(others.front().find("layers that target_modules does not name have tensors") != std::string::npos);
    CHECK(read({{"target_modules", "(?=x)y"}}, entries).front().find("what has tensors is used") != std::string::npos);
  }
  const auto by_state_dict = [&](const char* prefix, const char* from, const char* to) {
    auto renamed = entries;
    for (auto& e : renamed) {
      e.name.replace(0, std::string("base_model.model.").size(), prefix);
      e.name.replace(e.name.find(from), std::string(from).size(), to);
    }
    return read(Json::object(), renamed);
  };
  CHECK(by_state_dict("", ".weight", ".weight").empty());
  CHECK(by_state_dict("base_model.model.", ".weight", ".default.weight").empty());
}

TEST_CASE("peft: an adapter of another base is told, whatever its path, and the base's name can be given") {
  CHECK(other_base_warning("", "x").empty());
  CHECK(other_base_warning("../SmolLM2-135M-Instruct.Q4_1.gguf", "/m/SmolLM2-135M-Instruct.Q8_0.gguf").empty());
  CHECK(other_base_warning("HuggingFaceTB/SmolLM2-135M-Instruct", "models/SmolLM2-135M-Instruct/").empty());
  CHECK(other_base_warning("google/gemma-3-270m", "gemma-3-270m-Q4_K_M.gguf").empty());
  CHECK(!other_base_warning("HuggingFaceTB/SmolLM2-135M", "models/SmolLM2-135M-Instruct").empty());
  Scratch dir;
  auto lm = Lm::from_pretrained(base_folder, {.threads = 1});
  lm.attach(Lora{.rank = 2});
  lm.save_adapter(dir / "named", {.base = "somebody/else"});
  CHECK(read_json(dir / "named/adapter_config.json")["base_model_name_or_path"] == "somebody/else");
  const auto told = lm.load_adapter(dir / "named");
  REQUIRE(told.size() == 1);
  CHECK(told.front().find("the adapter was made for 'somebody/else'") != std::string::npos);
}

TEST_CASE("adapter patterns: PEFT's regular expressions from the module's beginning") {
  const std::string module = "model.layers.11.self_attn.q_proj";
  for (const char* yes : {"q_proj", "self_attn.q_proj", "model.layers.11.self_attn.q_proj", ".*q_proj", "(q|k)_proj",
                          R"(layers\.1\d\..*)", "[qk]_proj", "[^k]_proj", "^model.*proj$", "q_?proj",
                          "layers.1+.self_attn.q_proj", R"(layers.\d+.(self_attn.(q|v)_proj|mlp.x))", "[a-z]_proj"})
    CHECK_MESSAGE(matches_pattern(yes, module), yes);
  for (const char* no :
       {"proj", "k_proj", "layers.1.self_attn.q_proj", "^layers.*", "q_proj.x", "(k|v)_proj", "", "[^q]_proj"})
    CHECK_MESSAGE(!matches_pattern(no, module), no);
  for (const char* bad : {"(q", "[q", "q{2}", "(?:q)", "*q", "q\\"})
    CHECK_THROWS_AS(matches_pattern(bad, module), Error);
  CHECK_THROWS_WITH_AS(matches_pattern("(((((a*)*)*)*)*)*b", std::string(64, 'a')), doctest::Contains("too long"),
                       Error);
}

}  // namespace
}  // namespace peft_test
