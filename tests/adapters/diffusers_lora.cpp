// tests/adapters/diffusers_lora.cpp: LoRA files as diffusers and peft write them (tools/make_mmjit_fixtures.py),
// kohya's names, and files that do not fit.
#include "../image/mmjit_case.hpp"

#include <doctest/doctest.h>
#include <ftlib/adapters/diffusers_lora.hpp>

using namespace ft;
using namespace ft::test;

namespace {

/// lora_trained.safetensors with its keys and metadata changed.
struct Changed {
  Scratch dir;
  SafetensorsFile original;
  std::vector<std::vector<float>> kept;
  std::vector<TensorEntry> entries;
  std::map<std::string, std::string> metadata;

  explicit Changed(const MMJiTCase& c) : original(SafetensorsFile::open(c.folder / "lora_trained.safetensors")) {
    for (const std::string& key : original.names()) entries.push_back(entry(key, original.tensor(key)));
    metadata = original.metadata();
  }
  void rename(const std::function<std::string(const std::string&)>& f) {
    for (TensorEntry& e : entries) e.name = f(e.name);
  }
  void add(const std::string& key, const Shape& shape, float value) {
    kept.emplace_back(static_cast<std::size_t>(shape.count()), value);
    entries.push_back({key, DType::f32, shape, kept.back().data()});
  }
  std::filesystem::path write() {
    write_safetensors(dir / "changed.safetensors", entries, metadata);
    return dir / "changed.safetensors";
  }
};

std::string with(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}
std::string kohya(const std::string& key) {
  std::string module = key.substr(std::string("transformer.").size());
  const auto dot = module.find(".lora_");
  std::string ending = with(with(module.substr(dot), "lora_A", "lora_down"), "lora_B", "lora_up");
  module.resize(dot);
  std::replace(module.begin(), module.end(), '.', '_');
  return "lora_unet_" + module + ending;
}

}  // namespace

TEST_CASE("diffusers lora: peft's adapter gives PyTorch's pictures, and is written again as it was") {
  for (const std::string name : {"published", "adaln"}) {
    CAPTURE(name);
    Scratch dir;
    MMJiTCase c(name);
    const auto base = c.predict().to_host(c.ctx);
    const auto read = read_diffusers_lora(c.folder / "lora_trained.safetensors");
    CHECK(read.config.rank == 3);
    CHECK(read.config.alpha == 6);
    CHECK(read.warnings.empty());
    c.take(read);
    CHECK(c.difference(c.predict(), "lora.pred") <= 1e-4);
    CHECK(c.difference(base, "lora.pred") > 1e-2);

    write_diffusers_lora(dir / "adapter", c.adapters->data(c.ctx, "a"), c.net.file_shapes());
    const auto wanted = SafetensorsFile::open(c.folder / "lora_trained.safetensors"),
               got = SafetensorsFile::open(dir / "adapter" / "pytorch_lora_weights.safetensors");
    CHECK(got.names().size() == wanted.names().size());
    for (const std::string& key : wanted.names()) {
      CAPTURE(key);
      CHECK(got.tensor(key).shape == wanted.tensor(key).shape);  // the patch embedding's are convolutions
      CHECK(std::ranges::equal(got.bytes(key), wanted.bytes(key)));
    }
    const auto ours = parse_json(got.metadata().at("lora_adapter_metadata"), "ours"),
               theirs = parse_json(wanted.metadata().at("lora_adapter_metadata"), "theirs");
    CHECK(got.metadata().at("format") == "pt");
    for (const auto& [key, value] : theirs.items()) CHECK(ours[key] == value);

    MMJiTCase again(name);
    again.take(read_diffusers_lora(dir / "adapter"));  // by its folder
    CHECK(again.predict().to_host(again.ctx) == c.predict().to_host(c.ctx));
    again.adapters->merge(again.ctx);
    CHECK(again.difference(again.predict(), "lora.pred") <= 1e-4);
    CHECK_THROWS_WITH_AS(again.adapters->merge(again.ctx), doctest::Contains("there is no adapter"), Error);
    CHECK_THROWS_WITH_AS(again.adapters->data(again.ctx, "a"), doctest::Contains("there is none called 'a'"), Error);
  }
}

TEST_CASE("diffusers lora: other writers' keys are read") {
  MMJiTCase reference("adaln");
  reference.take(read_diffusers_lora(reference.folder / "lora_trained.safetensors"));
  const auto wanted = reference.predict().to_host(reference.ctx);
  const auto same = [&](Changed& changed) {
    MMJiTCase c("adaln");
    c.take(read_diffusers_lora(changed.write()));
    CHECK(c.adapters->data(c.ctx, "a").config.alpha == 6);
    CHECK(c.predict().to_host(c.ctx) == wanted);
  };
  for (const char* prefix :
       {"base_model.model.", "diffusion_model.", "base_model.model.transformer.", "transformer.model.net.", ""}) {
    CAPTURE(prefix);
    Changed changed(reference);
    changed.rename([&](const std::string& key) { return with(key, "transformer.", prefix); });
    same(changed);
  }
  {
    Changed changed(reference);
    changed.rename([](const std::string& key) { return with(key, ".weight", ".default.weight"); });
    same(changed);
  }
  {
    Changed changed(reference);
    changed.metadata.erase("lora_adapter_metadata");
    const auto keys = changed.original.names();
    changed.rename(kohya);
    for (const std::string& key : keys)
      if (key.ends_with(".lora_A.weight")) changed.add(with(kohya(key), ".lora_down.weight", ".alpha"), {}, 6);
    same(changed);
  }
  {  // neither metadata nor alpha: alpha is the rank
    Changed changed(reference);
    changed.metadata.clear();
    MMJiTCase c("adaln");
    c.take(read_diffusers_lora(changed.write()));
    CHECK(c.adapters->data(c.ctx, "a").config.alpha == 3);
  }
  {  // one layer's alpha is another
    Changed changed(reference);
    changed.add("transformer.txt_embedder.alpha", {}, 2);
    MMJiTCase c("adaln");
    c.take(read_diffusers_lora(changed.write()));
    const auto config = c.adapters->data(c.ctx, "a").config;
    CHECK(config.alpha == 6);
    CHECK(config.alpha_pattern == std::map<std::string, float>{{"txt_embedder", 2}});
    CHECK(c.predict().to_host(c.ctx) != wanted);
  }
}

TEST_CASE("diffusers lora: what does not fit is refused, by name and number, and nothing is changed") {
  MMJiTCase c("published");
  const auto before = c.predict().to_host(c.ctx);
  const auto refused = [&](Changed& changed, const char* why) {
    CHECK_THROWS_WITH_AS(c.take(read_diffusers_lora(changed.write())), doctest::Contains(why), Error);
    CHECK(c.predict().to_host(c.ctx) == before);
    CHECK(c.adapters->names().empty());
  };
  {  // for the other model: its conditioning is not there
    MMJiTCase other("adaln");
    Changed changed(other);
    refused(changed,
            "12 of 70 keys match no linear layer of this model: 'transformer.double_blocks.0.adaLN_modulation.1");
  }
  Changed changed(c);
  const auto entries = changed.entries;
  const auto restore = [&] {
    changed.entries = entries;
    changed.metadata = changed.original.metadata();
  };
  changed.entries.pop_back();
  refused(changed, "has no partner");
  restore();
  changed.entries.clear();
  changed.add("transformer.txt_embedder.lora_A.bias", {1}, 0);
  refused(changed, "1 of 1 keys match no linear layer of this model: 'transformer.txt_embedder.lora_A.bias'");
  restore();
  changed.add("transformer.txt_embedder.dora_scale", {1, 24}, 1);
  refused(changed, "'transformer.txt_embedder.dora_scale' (DoRA) is not supported by kohya's names");
  restore();
  changed.add("txt_embedder.lora_A.weight", {3, 10}, 1);
  refused(changed, "are for one layer");
  restore();
  changed.add("transformer.txt_embedder.alpha", {2}, 2);
  refused(changed, "(2) is no number");
  restore();
  changed.entries[0].shape = {changed.entries[0].shape.count(), 1};
  refused(changed, "the model and rank 3 ask for");
  restore();
  changed.metadata["lora_adapter_metadata"] = R"({"transformer.r": 4})";
  refused(changed, "the model and rank 4 ask for");
  changed.metadata["lora_adapter_metadata"] = R"({"transformer.use_dora": true})";
  refused(changed, "has no partner");
  changed.metadata["lora_adapter_metadata"] = R"({"transformer.r": 3, "transformer.rank_pattern": {"img_qkv": 8}})";
  refused(changed, "the model and rank 8 ask for");
  changed.metadata["lora_adapter_metadata"] = R"({"transformer.lora_bias": true})";
  refused(changed, "lora_bias is not supported");
  changed.metadata["lora_adapter_metadata"] = "{";
  refused(changed, "lora_adapter_metadata: line 1");
}
