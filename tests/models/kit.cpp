// tests/models/kit.cpp: the model kit: names and transforms both ways, configurations read, refused and written back,
// architectures of a host's own.
#include <doctest/doctest.h>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/models/kit/known.hpp>
#include <ftlib/models/kit/registry.hpp>
#include <ftlib/tensor/quantise.hpp>

#include "../model_fixtures.hpp"
#include "../scratch.hpp"

#include <cmath>
#include <cstring>
#include <tuple>

using namespace ft;
using ft::test::Scratch;

namespace {
const std::filesystem::path kit_models = std::filesystem::path(FTLIB_TEST_DATA) / "models";

/// f(configuration) as the architecture reads it that the checkpoint names.
template <class F, class... Config> void with_config(const Checkpoint& c, F f, ft::detail::ConfigList<Config...>) {
  bool found = false;
  const auto one = [&]<class C>(const C*) {
    if (found || c.architecture != (c.gguf ? C::gguf_name : C::name)) return;
    found = true;
    f(c.config<C>());
  };
  (one(static_cast<const Config*>(nullptr)), ...);
  REQUIRE(found);
}
template <class F> void with_config(const Checkpoint& c, F f) { with_config(c, f, ft::detail::KnownConfigs()); }

using Tensors = std::map<std::string, Stored<Cpu>>;

std::vector<std::string> names_of(const Tensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}
Tensors to_hf(const TensorMap& map, const Tensors& gguf) {
  Tensors out;
  map.to_hf(
      names_of(gguf), [&](const std::string& n) { return gguf.at(n); },
      [&](const std::string& n, Stored<Cpu> w) { REQUIRE(out.emplace(n, w).second); }, "test");
  return out;
}
Tensors to_gguf(const TensorMap& map, const Tensors& hf) {
  Tensors out;
  map.to_gguf(
      names_of(hf), [&](const std::string& n) { return hf.at(n); },
      [&](const std::string& n, Stored<Cpu> w) { REQUIRE(out.emplace(n, w).second); }, "test");
  return out;
}
std::vector<float> values_of(const Stored<Cpu>& w) {
  std::vector<float> v(static_cast<std::size_t>(w.shape.count()));
  dequantise_row(w.type, w.data, 0, w.shape.count(), v.data());
  return v;
}
void check_equal(const Tensors& a, const Tensors& b, bool rounded = false) {
  CHECK(names_of(a) == names_of(b));
  for (const auto& entry : a) {
    const std::string& name = entry.first;
    const Stored<Cpu>& tensor = entry.second;
    CAPTURE(name);
    const Stored<Cpu>& other = b.at(name);
    CHECK(tensor.shape == other.shape);
    if (name.ends_with("ssm_out.weight") && is_quantised(other.type) && tensor.type == DType::f32) {
      CHECK(values_of(tensor) == values_of(other));  // blocks that reach over two heads were unpacked
      continue;
    }
    CHECK(tensor.type == other.type);
    const bool rate = name.ends_with("A_log") || name.ends_with("ssm_a");  // e^ of it was taken, and the logarithm
    if ((rounded && name.ends_with("norm.weight")) || rate) {  // a number was added to it, and taken away again
      const auto got = values_of(tensor), wanted = values_of(other);
      for (std::size_t i = 0; i < wanted.size(); ++i)
        CHECK(std::abs(got[i] - wanted[i]) <= (rate ? 1e-6f * std::max(1.0f, std::abs(wanted[i])) : 2e-7f));
    } else {
      CHECK(std::memcmp(tensor.data, other.data, static_cast<std::size_t>(tensor.bytes())) == 0);
    }
  }
}
Stored<Cpu> numbered(const Shape& shape, float from = 0) {
  auto [w, bytes] = ft::detail::new_stored(DType::f32, shape);
  for (int64_t i = 0; i < shape.count(); ++i) reinterpret_cast<float*>(bytes)[i] = from + static_cast<float>(i);
  return w;
}
/// Opens what `config` and llama_tiny's tensors are.
std::string message_of(const Json& config, const char* tensors = "llama_tiny") {
  Scratch dir;
  std::filesystem::create_directories(dir / "model");
  write_atomically(dir / "model/config.json", config.dump());
  if (*tensors) std::filesystem::copy_file(kit_models / tensors / "model.safetensors", dir / "model/model.safetensors");
  Context<Cpu> ctx({.threads = 1});
  try {
    make_language_model<float>(ctx, Checkpoint::open(dir / "model"));
  } catch (const Error& e) {
    return e.what();
  }
  return "opened";
}
Json config_of(const char* name) { return read_json(kit_models / name / "config.json"); }
Json with(Json json, const char* key, Json value) {
  json[key] = std::move(value);
  return json;
}
}  // namespace

TEST_CASE("models/kit: a GGUF's tensors under Hugging Face's names and back are the same bytes; so the other way") {
  const auto both = [](const auto& config, const Checkpoint& checkpoint) {
    const TensorMap map = config.tensors();
    if (checkpoint.gguf) {
      Tensors gguf;
      for (const auto& name : checkpoint.gguf->names())
        if (!name.starts_with("rope_"))
          gguf.emplace(name, checkpoint.gguf->tensor(name));  // those are numbers of the configuration
      check_equal(to_gguf(map, to_hf(map, gguf)), gguf);
    } else if (checkpoint.architecture != "gpt_oss" && checkpoint.architecture != "gemma4_text") {
      // whose prepare() makes other tensors of them: text/export
      const auto file = SafetensorsModel::open(checkpoint.path);
      Tensors hf;
      for (const auto& name : file.names()) {
        std::string ours = name;  // of a whole model the text's tensors alone
        if (!checkpoint.left_out.empty()) {
          const std::string_view inner = "language_model.";
          const std::size_t at = ours.find(inner);
          if (at == ours.npos) continue;
          ours.erase(at, inner.size());
        }
        hf.emplace(ours, map.across_folder(ours, file.tensor(name)));
      }
      const Tensors gguf = to_gguf(map, hf);
      for (const auto& [name, tensor] : gguf)
        CHECK((name.starts_with("blk.") || name == "token_embd.weight" || name == "output_norm.weight" ||
               name == "output.weight" || name == "output_norm.bias" || name == "position_embd.weight" ||
               name == "token_embd_norm.weight"));
      check_equal(to_hf(map, gguf), hf,
                  checkpoint.architecture == "gemma3_text" || checkpoint.architecture == "qwen3_5_text");
    }
  };
  auto names = ft::test::model_folders();
  for (const auto& name : ft::test::model_ggufs()) names.push_back(name);
  for (const auto& name : names) {
    CAPTURE(name);
    const auto c = Checkpoint::open(kit_models / name);
    with_config(c, [&](const auto& config) { both(config, c); });
  }
}

TEST_CASE("models/kit: each transform, both ways") {
  const TensorMap map(2, {{"a.{}.t", "b.{}.t", Transform::transpose},  // between a folder and memory
                          {"a.{}.q", "b.{}.q", Transform::permute_heads, 2},
                          {.hf = "a.{}.n", .gguf = "b.{}.n", .transform = Transform::shift, .shift = 1},
                          {.hf = "a.{}.up", .gguf = "b.{}.gate", .transform = Transform::split, .begin = 0, .end = 1},
                          {.hf = "a.{}.up", .gguf = "b.{}.up", .transform = Transform::split, .begin = 1, .end = 3},
                          {.hf = "a.{}.e.{e}.w", .gguf = "b.{}.exps", .transform = Transform::stack, .experts = 2},
                          {"a.{}.c", "b.{}.c", Transform::squeeze},
                          {"a.{}.log", "b.{}.rate.bias", Transform::negative_exp}});  // names that are not alike
  const Tensors hf{{"a.0.t.weight", numbered({2, 3})},
                   {"a.0.t.bias", numbered({3})},
                   {"a.0.q.weight", numbered({8, 1})},
                   {"a.0.q.bias", numbered({8})},
                   {"a.0.n.weight", numbered({2}, 0.5f)},
                   {"a.0.up.weight", numbered({3, 2})},
                   {"a.0.e.0.w.weight", numbered({2, 2})},
                   {"a.0.e.1.w.weight", numbered({2, 2}, 10)},
                   {"a.0.e.0.w.bias", numbered({2})},
                   {"a.0.e.1.w.bias", numbered({2}, 7)},
                   {"a.0.c.weight", numbered({2, 1, 3})},
                   {"a.1.up.weight", numbered({3, 2}, 4)},
                   {"a.1.log", numbered({1})}};
  const Tensors gguf = to_gguf(map, hf);
  CHECK(gguf.at("b.0.t.weight").shape == Shape{2, 3});
  const auto turned = map.across_folder("a.0.t.weight", hf.at("a.0.t.weight"));
  CHECK(turned.shape == Shape{3, 2});
  CHECK(values_of(turned) == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(values_of(map.across_folder("a.0.t.weight", turned)) == values_of(hf.at("a.0.t.weight")));
  CHECK(map.across_folder("a.0.q.weight", hf.at("a.0.q.weight")).data == hf.at("a.0.q.weight").data);
  CHECK(values_of(gguf.at("b.0.q.weight")) == std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7});
  CHECK(values_of(gguf.at("b.0.n.weight")) == std::vector<float>{1.5f, 2.5f});
  CHECK(values_of(gguf.at("b.0.gate.weight")) == std::vector<float>{0, 1});
  CHECK(values_of(gguf.at("b.0.up.weight")) == std::vector<float>{2, 3, 4, 5});
  CHECK(values_of(gguf.at("b.1.up.weight")) == std::vector<float>{6, 7, 8, 9});
  CHECK(values_of(gguf.at("b.1.rate.bias")) == std::vector<float>{-1});
  CHECK_THROWS_WITH_AS(to_hf(map, {{"b.0.rate.bias", numbered({1})}}), doctest::Contains("no logarithm"), Error);
  CHECK(gguf.at("b.0.c.weight").shape == Shape{2, 3});
  CHECK(gguf.at("b.0.exps.weight").shape == Shape{2, 2, 2});
  CHECK(values_of(gguf.at("b.0.exps.bias")) == std::vector<float>{0, 1, 7, 8});
  check_equal(to_hf(map, gguf), hf);
  CHECK_THROWS_WITH_AS(to_hf(map, {{"b.0.other.weight", numbered({1})}}),
                       doctest::Contains("'b.0.other.weight' is not part of this architecture"), Error);
  CHECK_THROWS_WITH_AS(to_gguf(map, {{"a.0.up.weight", numbered({4, 2})}}), doctest::Contains("rows behind 3"), Error);
  CHECK_THROWS_WITH_AS(to_gguf(map, {{"a.0.q.weight", numbered({6, 1})}}), doctest::Contains("6 rows of q or k"),
                       Error);
}

TEST_CASE("models/kit: heads of values go from all of a group to one of each, both ways, and their columns too") {
  const HeadTiles rows{.groups = 2, .heads = 4, .begin = 3}, columns{.groups = 2, .heads = 4, .columns = true};
  const TensorMap map(
      1, {{.hf = "a.{}.v", .gguf = "b.{}.v", .tiles = rows}, {.hf = "a.{}.o", .gguf = "b.{}.o", .tiles = columns}});
  const Tensors hf{{"a.0.v.weight", numbered({7, 1})}, {"a.0.o.weight", numbered({2, 8})}};
  const Tensors gguf = to_gguf(map, hf);
  CHECK(values_of(gguf.at("b.0.v.weight")) == std::vector<float>{0, 1, 2, 3, 5, 4, 6});
  CHECK(values_of(gguf.at("b.0.o.weight")) == std::vector<float>{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15});
  check_equal(to_hf(map, gguf), hf);
  CHECK_THROWS_WITH_AS(to_gguf(map, {{"a.0.v.weight", numbered({8, 1})}}),
                       doctest::Contains("5 rows of a tensor (8, 1) do not divide into 4 heads"), Error);

  // LoRA's halves: B has the weight's rows and its own columns, A the weight's columns.
  const auto part = map.gguf_parts(
                           {"a.0.o.weight"},
                           [](const std::string&) {
                             return Shape{2, 8};
                           },
                           "test")
                        .front();
  const Stored<Cpu> b = numbered({2, 4}), a = numbered({1, 8});
  const auto get = [&](const std::string&) { return b; };
  CHECK(values_of(map.gguf_tensor(part, get, TensorMap::Of::lora_b)) == values_of(b));
  const Stored<Cpu> a_there = map.columns_to_gguf(part, a);
  CHECK(values_of(a_there) == std::vector<float>{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK(values_of(map.columns_to_hf("b.0.o.weight", a_there)) == values_of(a));

  // Blocks move whole where heads are of whole ones; where one reaches over two heads, values move as float32.
  for (const int64_t each : {32, 16}) {
    const Stored<Cpu> dense = numbered({3, 4 * each});
    auto [blocks, bytes] = ft::detail::new_stored(DType::q8_0, dense.shape);
    for (int64_t r = 0; r < 3; ++r)
      quantise_row(DType::q8_0, values_of(dense).data() + r * 4 * each, 4 * each, bytes + r * blocks.row_bytes());
    const Stored<Cpu> moved = to_gguf(map, {{"a.0.o.weight", blocks}}).at("b.0.o.weight");
    CHECK(moved.type == (each == 32 ? DType::q8_0 : DType::f32));
    const Tensors values{{"b.0.o.weight", moved}};
    CHECK(values_of(to_hf(map, values).at("a.0.o.weight")) == values_of(blocks));
  }
}

TEST_CASE("models/kit: a configuration is written back as it was read, from transformers 4, 5 and GGUF") {
  const auto check = []<class Config>(Config config, const Checkpoint& checkpoint) {
    const std::string name = checkpoint.path.filename().string();
    Checkpoint written = checkpoint;
    written.gguf.reset();
    written.json = config.to_json();
    CHECK(at<std::string>(written.json, "model_type", name) == Config::name);
    Config again = written.config<Config>();
    CHECK(again.to_json() == written.json);
    if (checkpoint.gguf) return;
    Checkpoint old = checkpoint;
    old.json = read_json(kit_models / name / "config.v4.json");
    Json of_old = old.config<Config>().to_json();
    for (const char* key : {"dtype", "torch_dtype", "cache_implementation"}) {
      of_old.erase(key);
      written.json.erase(key);
    }
    CHECK(of_old == written.json);
  };
  auto names = ft::test::model_folders();
  for (const auto& name : ft::test::model_ggufs()) names.push_back(name);
  for (const auto& name : names) {
    CAPTURE(name);
    const auto c = Checkpoint::open(kit_models / name);
    with_config(c, [&](const auto& config) { check(config, c); });
  }
}

TEST_CASE("models/kit: Llama 3's scaling as GGUF's table of divisors goes into config.json, another table is refused") {
  RopeOptions rope{.head_size = 64, .theta = 500000};
  const auto plain = rope_frequencies(rope);
  RopeOptions scaled = rope;
  scaled.llama3 = Llama3Scaling{.factor = 32};
  const auto wanted = rope_frequencies(scaled);
  for (std::size_t i = 0; i < plain.size(); ++i) rope.divisors.push_back(plain[i] / wanted[i]);
  Json json;
  ft::detail::ConfigWriter writer(json);
  writer.rope(rope, 64, 10000, nullptr, false);
  CHECK(json["rope_scaling"]["factor"] == 32.0);
  CHECK(json["rope_theta"] == 500000.0);
  rope.divisors[3] = 7;
  CHECK_THROWS_WITH_AS(writer.rope(rope, 64, 10000, nullptr, false), doctest::Contains("no word for another table"),
                       Error);
}

TEST_CASE("models/kit: keys of config.json that change the result are computed or refused by name, others are noted") {
  const Json llama = config_of("llama_tiny");
  CHECK(message_of(llama) == "opened");
  const std::pair<const char*, Json> refused[] = {
      {"sliding_window", 128},       {"attention_multiplier", 0.5},
      {"logits_scaling", 8},         {"embedding_multiplier", 12.0},
      {"residual_multiplier", 0.22}, {"final_logit_softcapping", 30.0},
      {"num_local_experts", 8},      {"partial_rotary_factor", 0.5},
      {"no_rope_layers", {1, 0}},    {"layer_types", {"full_attention", "linear_attention"}},
      {"use_qk_norm", true},         {"quantization_config", {{"bits", 4}}},
      {"hidden_act", "gelu"}};
  for (const auto& entry : refused) {
    const auto& key = entry.first;
    const Json& value = entry.second;
    CAPTURE(key);
    const std::string message = message_of(with(llama, key, value));
    CHECK_MESSAGE(message.find(key) != std::string::npos, message);
  }
  for (const auto& entry : {std::pair<const char*, Json>{"sliding_window", nullptr},
                            {"attention_multiplier", 1.0},
                            {"use_qk_norm", false},
                            {"num_local_experts", 0},
                            {"attention_dropout", 0.1},
                            {"rope_interleaved", false}}) {
    const char* const key = entry.first;
    const Json& value = entry.second;
    CAPTURE(key);
    CHECK(message_of(with(llama, key, value)) == "opened");
  }
  CHECK(message_of(with(llama, "rope_parameters", {{"rope_type", "dynamic"}, {"factor", 4.0}}))
            .find("rope type 'dynamic'") != std::string::npos);
  for (const auto& [rope, fault] :
       {std::pair<Json, const char*>{{{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}}, "mscale"},
        {{{"rope_type", "yarn"}, {"factor", -1.0}}, "yarn scaling with factor -1"},
        {{{"rope_type", "longrope"}, {"short_factor", {1.0}}}, "long_factor"},
        {{{"rope_type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}, "1 factors for 4"}}) {
    const std::string message = message_of(with(llama, "rope_parameters", rope));
    CHECK_MESSAGE(message.find(fault) != std::string::npos, message);
  }
  CHECK(message_of(with(llama, "rope_parameters", {{"rope_type", "yarn"}, {"factor", 4.0}})) == "opened");
  CHECK(message_of(with(llama, "rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}))
            .find("partial_rotary_factor") != std::string::npos);
  const auto qwen = message_of(with(config_of("qwen2_tiny"), "attention_bias", true), "qwen2_tiny");
  CHECK_MESSAGE(qwen.find("attention_bias") != std::string::npos, qwen);
  const auto gemma = message_of(with(config_of("gemma3_tiny"), "attn_logit_softcapping", 50.0), "gemma3_tiny");
  CHECK_MESSAGE(gemma.find("attn_logit_softcapping") != std::string::npos, gemma);
  CHECK(message_of(with(config_of("gemma3_tiny"), "use_bidirectional_attention", true), "gemma3_tiny") != "opened");

  const std::tuple<const char*, const char*, Json> variants[] = {
      {"granite4_tiny", "num_local_experts", 8},
      {"granite4_tiny", "layer_types", {"attention", "mamba"}},
      {"granite4_tiny", "position_embedding_type", "learned"},
      {"granite_tiny", "residual_multiplier", -1.0},
      {"smollm3_tiny", "no_rope_layers", {1, 0}},
      {"phi3_tiny", "partial_rotary_factor", 2.0},
      {"gpt2_tiny", "scale_attn_weights", false},
      {"gpt2_tiny", "scale_attn_by_inverse_layer_idx", true},
      {"gpt2_tiny", "add_cross_attention", true},
      {"gpt2_tiny", "activation_function", "relu"},
      {"lfm2_tiny", "conv_bias", true},
      {"lfm2_tiny", "layer_types", {"conv", "linear_attention", "conv"}},
      {"qwen3_5_heads", "attn_output_gate", false},
      {"qwen3_5_heads", "layer_types", {"full_attention", "linear_attention", "conv"}},
      {"qwen3_5_heads", "linear_num_key_heads", 3},
      {"qwen3_5_heads", "num_experts", 4},
      {"qwen3_moe_tiny", "num_experts_per_tok", 9},
      {"qwen3_moe_tiny", "shared_expert_intermediate_size", 12}};
  for (const auto& variant : variants) {
    const auto *name = std::get<0>(variant), *key = std::get<1>(variant);
    const Json& value = std::get<2>(variant);
    CAPTURE(name);
    Json json = with(config_of(name), key, value);
    if (std::string_view(key) == "partial_rotary_factor") json["rope_parameters"].erase(key);
    const std::string message = message_of(json, name);
    const char* said = std::string_view(key) == "residual_multiplier" ? "a multiplier is -1" : key;
    CHECK_MESSAGE(message.find(said) != std::string::npos, message);
  }

  {  // what is beside a text model is passed over, with a word on it
    Context<Cpu> ctx({.threads = 1});
    const auto whole = make_language_model<float>(ctx, Checkpoint::open(kit_models / "qwen3_5_tiny"));
    const auto& of_whole = whole->info().notes;
    REQUIRE(of_whole.size() == 2);
    CHECK(of_whole[0].find("the text model alone is read, without vision_config") != std::string::npos);
    CHECK(of_whole[1].find("3 tensors of other parts are passed over, 'model.visual.") != std::string::npos);
  }

  Checkpoint checkpoint = Checkpoint::open(kit_models / "llama_tiny");
  checkpoint.json["flavour"] = "vanilla";
  const auto notes = checkpoint.config<LlamaConfig>().notes;
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("flavour") != std::string::npos);
}

TEST_CASE("models/kit: GGUF's keys that change the result are computed or refused by name") {
  Scratch dir;
  const auto file = GgufFile::open(kit_models / "llama_q4_1.gguf");
  std::vector<TensorEntry> entries;
  for (const auto& name : file.names()) entries.push_back(entry(name, file.tensor(name)));
  Context<Cpu> ctx({.threads = 1});
  PackedTokens batch;
  batch.add({7, 70, 6, 46, 90, 3, 22, 51});
  std::vector<float> last;
  const auto message = [&](const char* key, GgufValue value) {
    GgufMetadata metadata = file.metadata();
    std::erase_if(metadata, [&](const auto& item) { return item.first == key; });
    metadata.emplace_back(key, std::move(value));
    write_gguf(dir / "m.gguf", metadata, entries);
    try {
      last = make_language_model<float>(ctx, Checkpoint::open(dir / "m.gguf"))->logits(ctx, batch).to_host(ctx);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("opened");
  };
  CHECK(message("general.name", std::string("x")) == "opened");
  const auto plain = last;
  for (const auto& [key, value] : {std::pair<const char*, GgufValue>{"llama.rope.dimension_count", uint32_t{8}},
                                   {"llama.rope.scaling.type", std::string("dynamic")},
                                   {"llama.attention.value_length", uint32_t{8}},
                                   {"llama.attention.sliding_window", uint32_t{4}},
                                   {"llama.attention.scale", 0.25f},
                                   {"llama.attention.causal", false},
                                   {"llama.logit_scale", 2.0f},
                                   {"llama.embedding_scale", 12.0f},
                                   {"llama.residual_scale", 0.22f},
                                   {"llama.expert_count", uint32_t{8}},
                                   {"llama.final_logit_softcapping", 30.0f},
                                   {"llama.key_of_the_future", uint32_t{3}}}) {
    const auto said = message(key, value);
    CHECK_MESSAGE(said.find(key) != std::string::npos, said);
  }
  for (const auto& [key, value] : {std::pair<const char*, GgufValue>{"llama.rope.dimension_count", uint32_t{16}},
                                   {"llama.rope.scaling.type", std::string("none")},
                                   {"llama.attention.value_length", uint32_t{16}},
                                   {"llama.attention.causal", true},
                                   {"llama.logit_scale", 1.0f},
                                   {"llama.expert_count", uint32_t{0}}}) {
    CHECK(message(key, value) == "opened");
    CHECK(last == plain);
  }
  CHECK(message("llama.rope.scaling.factor", 4.0f) == "opened");  // linear, as llama.cpp takes it
  CHECK(last != plain);
}

TEST_CASE("models/kit: an unknown architecture is said before missing weights are") {
  const auto message = message_of(with(config_of("llama_tiny"), "model_type", "mamba"), "");
  CHECK_MESSAGE(message.find("architecture 'mamba' is not known") != std::string::npos, message);
  CHECK_MESSAGE(message.find("known are: llama, qwen2, qwen3, gemma3_text") != std::string::npos, message);
}

TEST_CASE("models/kit: Gemma 4's variants are refused by the key that makes them so") {
  const Json config = config_of("gemma4_tiny");
  const auto message = [&](const char* key, Json value) { return message_of(with(config, key, std::move(value)), ""); };
  for (const auto& [key, value, said] :
       {std::tuple<const char*, Json, const char*>{"enable_moe_block", true, "enable_moe_block is true"},
        {"use_bidirectional_attention", "all", "use_bidirectional_attention is 'all'"},
        {"num_kv_shared_layers", 6, "num_kv_shared_layers 6: layer 0 has no earlier one of its type"},
        {"num_kv_shared_layers", 4, "layer 2 has no earlier one of its type"},
        {"vocab_size_per_layer_input", 96, "vocab_size_per_layer_input 96 is not vocab_size 97"},
        {"per_layer_config", {{"2", {{"head_dim", 16}}}}, "layer 2 has 1 key-value heads of 16"},
        {"per_layer_config", {{"2", {{"intermediate_size", 16}}}}, "per_layer_config sets 'intermediate_size'"},
        {"per_layer_config", {{"7", {{"head_dim", 16}}}}, "per_layer_config holds '7'"}}) {
    const std::string got = message(key, value);
    CHECK_MESSAGE(got.find(said) != std::string::npos, got);
  }
}

TEST_CASE("models/kit: of a model with pictures and sound the text is read, and the rest is noted") {
  Scratch dir;
  std::filesystem::create_directories(dir / "model");
  const auto file = SafetensorsModel::open(kit_models / "gemma4_tiny");
  std::vector<TensorEntry> entries;
  for (const auto& name : file.names())
    entries.push_back(entry("model.language_model." + name.substr(6), file.file_of(name).tensor(name)));
  const auto picture = numbered({2, 2});  // lives until it is written
  entries.push_back(entry("model.vision_tower.weight", picture));
  write_safetensors(dir / "model/model.safetensors", entries, {{"format", "pt"}});
  Json text = config_of("gemma4_tiny");
  text.erase("architectures");
  const Json whole{{"model_type", "gemma4"},  {"architectures", {"Gemma4ForConditionalGeneration"}},
                   {"text_config", text},     {"vision_config", {{"hidden_size", 2}}},
                   {"audio_config", nullptr}, {"image_token_id", 5}};
  write_atomically(dir / "model/config.json", whole.dump());
  Context<Cpu> ctx({.threads = 1});
  PackedTokens batch;
  batch.add({7, 70, 6, 46, 12, 3, 90, 21, 44, 5});
  auto model = make_language_model<float>(ctx, Checkpoint::open(dir / "model"));
  auto plain = make_language_model<float>(ctx, Checkpoint::open(kit_models / "gemma4_tiny"));
  CHECK(model->logits(ctx, batch).to_host(ctx) == plain->logits(ctx, batch).to_host(ctx));
  REQUIRE(model->info().notes.size() == 2);
  CHECK(model->info().notes[0].find("the text model alone is read, without vision_config") != std::string::npos);
  CHECK(model->config()["model_type"] == "gemma4_text");
  CHECK(model->config()["architectures"] == Json{"Gemma4ForCausalLM"});
}

namespace {
/// A host's own: Llama with a window on every layer.
struct WindowedConfig : LlamaConfig {
  static constexpr const char *name = "windowed", *gguf_name = "", *class_name = "WindowedForCausalLM";
  int64_t window = 0;
  void fields(ConfigFields& f) override {
    LlamaConfig::fields(f);
    f.size("sliding_window", nullptr, window);
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t = LlamaConfig::layer(i);
    t.window = window;
    return t;
  }
};
}  // namespace

TEST_CASE("models/kit: a host adds an architecture") {
  Json config = with(with(config_of("llama_tiny"), "model_type", "windowed"), "sliding_window", 2);
  CHECK(message_of(config).find("'windowed' is not known") != std::string::npos);
  register_architecture(architecture_of<WindowedConfig, float, Cpu>());
  CHECK(message_of(config) == "opened");
  CHECK_THROWS_WITH_AS((register_architecture(architecture_of<WindowedConfig, float, Cpu>())),
                       doctest::Contains("'windowed' (GGUF: '') is known already"), Error);

  Scratch dir;
  std::filesystem::create_directories(dir / "model");
  std::filesystem::copy_file(kit_models / "llama_tiny/model.safetensors", dir / "model/model.safetensors");
  Context<Cpu> ctx({.threads = 1});
  PackedTokens batch;
  batch.add({7, 70, 6, 46});
  const auto logits = [&](int window) {
    write_atomically(dir / "model/config.json", with(config, "sliding_window", window).dump());
    return make_language_model<float>(ctx, Checkpoint::open(dir / "model"))->logits(ctx, batch).to_host(ctx);
  };
  const auto plain = make_language_model<float>(ctx, Checkpoint::open(kit_models / "llama_tiny"))->logits(ctx, batch);
  CHECK(logits(4) == plain.to_host(ctx));
  CHECK(logits(2) != plain.to_host(ctx));
}
