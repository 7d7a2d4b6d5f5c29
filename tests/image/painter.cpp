// tests/image/painter.cpp: words in, pictures out: a base with its text model, adapter and finisher in one object, and
// what each path that is none of them is told.
#include <doctest/doctest.h>
#include <ftlib/image/painter.hpp>
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/train/trainer.hpp>

#include <atomic>
#include <fstream>
#include <thread>

#include "../scratch.hpp"
#include "tiny_painter.hpp"

using namespace ft;
using namespace ft::test;
namespace fs = std::filesystem;

namespace {
using P = ft::Painter<float, Cpu>;

P open(const fs::path& folder) { return P::from_pretrained(folder, tiny_text_model_file, {.threads = 1}); }
std::string refusal(const fs::path& folder, const fs::path& text = tiny_text_model_file) {
  try {
    P::from_pretrained(folder, text, {.threads = 1});
  } catch (const Error& e) {
    return e.message();
  }
  return "";
}
void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}
}  // namespace

TEST_CASE("painter: a base draws what the model draws from its captions' states") {
  const Scratch dir;
  write_tiny_base(dir.path());
  auto painter = open(dir.path());
  CHECK(painter.words() == "noto style");
  CHECK(painter.side() == 32);
  CHECK(painter.notes().empty());
  const auto drawn = painter.draw({"tomato", "owl"}, {.seeds = {7, 8}, .steps = 3});
  REQUIRE(drawn.size() == 2);
  CHECK(drawn[0].width == 32);

  auto model = TextToImage<float, Cpu>::from_pretrained(dir.path(), {.threads = 1});
  auto encoder = TextEncoder<float, Cpu>::open(tiny_text_model_file, tiny_encoding(), {.threads = 1});
  PackedText text;
  for (const auto& states : encoder.encode({"tomato, noto style", "owl, noto style"})) text.add(*states, 64);
  const auto values = model.draw(text, {7, 8}, {.steps = 3, .solver = Solver::euler, .guidance = 1});
  CHECK(drawn == to_pictures(values, 32));

  CHECK(painter.draw({"tomato, noto style"}, {.seeds = {7}, .style = "", .steps = 3})[0] == drawn[0]);
  CHECK(painter.draw({"tomato"}, {.seeds = {7}, .style = "ink style", .steps = 3})[0] != drawn[0]);
  CHECK(painter.draw({"tomato", "tomato"}, {.steps = 2}) ==
        painter.draw({"tomato", "tomato"}, {.seeds = {42, 43}, .steps = 2}));
  CHECK(painter.draw({}).empty());
  CHECK_THROWS_WITH_AS(painter.draw({"owl", " "}), doctest::Contains("text 2 of 2 is empty"), Error);
  CHECK_THROWS_WITH_AS(painter.draw({"owl"}, {.seeds = {1, 2}}), doctest::Contains("1 texts and 2 seeds"), Error);
  CHECK_THROWS_WITH_AS(painter.draw({"owl"}, {.steps = 0}), doctest::Contains("0 steps"), Error);

  auto other = painter.session({.threads = 1});  // for another thread
  std::vector<Picture> beside;
  std::thread thread([&] { beside = other.draw({"tomato", "owl"}, {.seeds = {7, 8}, .steps = 3}); });
  CHECK(painter.draw({"tomato", "owl"}, {.seeds = {7, 8}, .steps = 3}) == drawn);
  thread.join();
  CHECK(beside == drawn);
}

TEST_CASE("painter: steps are told, some dozens of pictures at a time; a stop ends the drawing and harms nothing") {
  const Scratch dir;
  write_tiny_base(dir.path());
  auto painter = open(dir.path());
  std::vector<std::size_t> firsts;
  const auto drawn = painter.draw(std::vector<std::string>(33, "owl"), {.steps = 2}, [&](const PaintStep& s) {
    CHECK(s.steps == 2);
    CHECK(s.pictures.size() == (s.first == 0 ? 32 : 1));
    firsts.push_back(s.first);
  });
  CHECK(firsts == std::vector<std::size_t>{0, 0, 32, 32});
  CHECK(drawn.size() == 33);
  StopSource stop;
  int64_t seen = 0;
  CHECK_THROWS_WITH_AS(painter.draw({"owl"}, {.steps = 9, .stop = stop.token()},
                                    [&](const PaintStep& s) {
                                      if ((seen = s.step) == 3) stop.request_stop();
                                    }),
                       doctest::Contains("draw: stopped after step 3 of 9"), Interrupted);
  CHECK(seen == 3);
  CHECK(painter.draw(std::vector<std::string>(33, "owl"), {.steps = 2}) == drawn);
}

TEST_CASE("painter: learns from RGBA buffers, saves an adapter that names its base, and opens by it") {
  const Scratch dir;
  write_tiny_base(dir / "base");
  auto painter = open(dir / "base");
  const auto plain = painter.draw({"tomato"}, {.steps = 3});
  std::vector<CaptionedPicture> pictures;
  for (std::uint8_t i = 0; i < 4; ++i) {
    std::vector<std::uint8_t> rgba;
    for (int p = 0; p < 40 * 50; ++p) rgba.insert(rgba.end(), {static_cast<std::uint8_t>(60 * i), 200, 30, 255});
    pictures.push_back({str("p", int{i}), from_rgba(rgba.data(), 40, 50, 160, painter.side()), str("thing ", int{i})});
  }
  const auto examples = painter.examples(pictures);
  CHECK(*examples[1].caption == *painter.encoder().encode({"thing 1, noto style"})[0]);
  painter.model().attach({.rank = 2, .targets = painter.info().picture_layers});
  TrainerConfig config;
  config.optimizer = AdamW{.lr = 2e-2f};
  config.epochs = 6;
  config.batch_tokens = 2;
  Trainer(painter.model(), config).fit(FlowData(examples, painter.info()));
  const auto tuned = painter.draw({"tomato"}, {.steps = 3});
  CHECK(tuned != plain);
  painter.save_adapter(dir / "run/adapter", "my style");
  CHECK(painter.session({.threads = 1}).draw({"tomato"}, {.steps = 3}) == tuned);

  const Json style = read_json(dir / "run/adapter/style.json");
  CHECK(style["base"] == "../../base/model.safetensors");
  CHECK(style["words"] == "noto style");
  fs::rename(dir / "base", dir / "elsewhere");  // together they may be moved, one alone is missed
  CHECK(
      refusal(dir / "run/adapter").find("an adapter of the base '../../base/model.safetensors', which is not there") !=
      std::string::npos);
  fs::rename(dir / "elsewhere", dir / "base");
  auto again = P::from_pretrained(dir / "run/adapter", {}, {.threads = 1});
  CHECK(again.notes().empty());
  CHECK(again.style() == "my style");
  CHECK(again.draw({"tomato"}, {.steps = 3}) == tuned);
  again.remove_adapter();
  CHECK(again.style() == "noto style");
  CHECK(again.draw({"tomato"}, {.steps = 3}) == plain);

  // A finisher draws the end; where style.json names it, it must be there.
  again.load_adapter(dir / "run/adapter");
  CHECK_THROWS_WITH_AS(again.save_finisher(dir / "run/adapter"), doctest::Contains("there is no finisher"), Error);
  CHECK_THROWS_WITH_AS(again.new_finisher(1, 1), doctest::Contains("begins at time 1"), Error);
  again.new_finisher(0.5f, 3);
  again.save_finisher(dir / "run/adapter");
  const auto finished = again.draw({"tomato"}, {.steps = 3});
  CHECK(finished != tuned);
  auto reread = P::from_pretrained(dir / "run/adapter", {}, {.threads = 1});
  CHECK(reread.has_finisher());
  int64_t steps = 0;
  reread.draw({"tomato"}, {.steps = 3}, [&](const PaintStep& s) { steps = s.steps; });
  CHECK(steps == 9);
  CHECK(reread.session({.threads = 1}).draw({"tomato"}, {.steps = 3}) == reread.draw({"tomato"}, {.steps = 3}));
  reread.load_adapter(dir / "run/adapter", 1, /*finished=*/false);
  CHECK(reread.draw({"tomato"}, {.steps = 3}) == tuned);
  fs::remove(P::finisher_of(dir / "run/adapter"));
  CHECK_THROWS_WITH_AS(reread.load_adapter(dir / "run/adapter"), doctest::Contains("finisher.safetensors"), Error);
  CHECK(reread.draw({"tomato"}, {.steps = 3}) == plain);  // and no half of it hangs there

  // On another base it is told.
  write_tiny_base(dir / "other", /*seed=*/2);
  auto other = open(dir / "other");
  again.save_adapter(dir / "run/adapter", "my style");
  const auto notes = other.load_adapter(dir / "run/adapter");
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("was trained on another base (../../base/model.safetensors)") != std::string::npos);
  fs::remove(dir / "run/adapter/style.json");
  CHECK(other.load_adapter(dir / "run/adapter").at(0).find("has no style.json") != std::string::npos);
  CHECK(refusal(dir / "run/adapter").find("is an adapter, and without a style.json it does not say of which base") !=
        std::string::npos);
}

TEST_CASE("painter: a picture of another size is told so") {
  const Scratch dir;
  write_tiny_base(dir.path());
  auto painter = open(dir.path());
  const std::vector<std::uint8_t> rgba(64 * 64 * 4, 255);
  const CaptionedPicture large{"p", from_rgba(rgba.data(), 64, 64, 256, 64), "owl"};
  CHECK_THROWS_WITH_AS(painter.examples({large}),
                       doctest::Contains("picture 'p' is 64 x 64, the model learns pictures of 3 x 32 x 32"), Error);
  CHECK_THROWS_WITH_AS(painter.examples({{"p", {}, ""}}), doctest::Contains("picture 'p' has no words"), Error);
  PackedText none;
  none.add({}, 64);
  CHECK_THROWS_WITH_AS(
      denoise(painter.model().context(), painter.model().network(), none, std::vector<float>(3 * 64 * 64)),
      doctest::Contains("1 captions, and noise of 1 of 64 x 64; the model draws pictures of 3 x 32 x 32"), Error);
}

TEST_CASE("painter: what is no base is told what it is") {
  const Scratch dir;
  const auto contains = [](const std::string& text, const std::string& part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  write_tiny_base(dir / "base");
  contains(refusal(dir / "base", {}), "holds no text_encoder and no text_encoder.gguf, and no text model was given");
  contains(refusal(dir / "base", dir / "none.gguf"), "there is no such text model");
  fs::copy(tiny_text_model_file, dir / "base/text_encoder.gguf");
  CHECK(refusal(dir / "base", {}) == "");  // it lies in the base
  contains(refusal(dir / "none"), "none: cannot open");
  write(dir / "empty/notes.txt", "");
  contains(refusal(dir / "empty"), "is a folder without model.safetensors");
  try {
    open(dir / "empty");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::bad_file);
  }
  contains(refusal(tiny_text_model_file), "is a GGUF file, a language model, not a picture model");
  contains(refusal(fs::path(FTLIB_TEST_DATA) / "models/llama_tiny"), "holds a language model (llama)");
  write(dir / "peft/adapter_config.json", "{}");
  contains(refusal(dir / "peft"), "holds a PEFT adapter of a language model");
  auto painter = open(dir / "base");
  CHECK_THROWS_WITH_AS(painter.load_adapter(dir / "peft"),
                       doctest::Contains("holds a PEFT adapter of a language model"), Error);
  write(dir / "flux/model_index.json", R"({"_class_name": "Flux2KleinPipeline"})");
  contains(refusal(dir / "flux"), "holds a diffusers pipeline (Flux2KleinPipeline)");
  painter.model().train_all();
  painter.model().save(dir / "bare.safetensors");
  contains(refusal(dir / "bare.safetensors"), "does not say how its captions are read");
  CHECK(TextToImage<float, Cpu>::from_pretrained(dir / "bare.safetensors").info().side == 32);
}

TEST_CASE("painter: the bundled base, where its text model was fetched") {
  const fs::path base = fs::path(FTLIB_TEST_DATA) / "../../examples/image_style/base",
                 text = fs::path(FTLIB_TEST_MODELS) / "SmolLM2-135M-Instruct.Q4_1.gguf";
  CHECK(refusal(base, {}).find("holds no text_encoder") != std::string::npos);
  CHECK(refusal(base).find("layer 14") != std::string::npos);  // of another language model
  if (!fs::exists(text)) {
    MESSAGE("skipped: tools/fetch_model en");
    return;
  }
  auto painter = P::from_pretrained(base, text, {.threads = 1});
  CHECK(painter.words() == "noto style");
  const Picture tomato = painter.draw({"tomato"}).front();
  double red = 0, green = 0;
  for (int y = 12; y < 26; ++y)
    for (int x = 9; x < 23; ++x) {
      red += tomato.at(x, y)[0];
      green += tomato.at(x, y)[1];
    }
  CHECK(red > 14 * 14 * 150);  // and not an orange star
  CHECK(green < 14 * 14 * 80);
  CHECK(tomato.at(0, 0)[1] > 240);
}
