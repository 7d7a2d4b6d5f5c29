// tests/examples/image_measures.cpp: the measures of `image_style evaluate` on numbers whose answer is known, and the
// whole of it on a tiny random base with two adapters.
#include "../../examples/image_style/evaluate.hpp"

#include <doctest/doctest.h>
#include <ftlib/models/mmjit_config.hpp>

#include "../tiny_text_model.hpp"

#include <sstream>  // std::ostringstream

using namespace image_style;
using ft::test::Scratch;
namespace fs = std::filesystem;

namespace {

/// Rows from N(mean, 1).
Matrix normal(ft::Random& random, Eigen::Index rows, Eigen::Index columns, double mean = 0) {
  Matrix out(rows, columns);
  for (double& value : out.reshaped()) value = mean + random.normal();
  return out;
}

/// A square in a colour of its own on white: in style 1 with a dark outline, in style 2 on grey.
Picture square(int subject, int style, int side = 16) {
  Picture picture(side, side, style == 2 ? 120 : 255);
  const int left = 2 + subject % 4, top = 2 + subject / 4 % 4, wide = 5 + subject % 3;
  for (int y = top; y < top + wide; ++y)
    for (int x = left; x < left + wide; ++x) {
      const bool rim = y == top || x == left || y == top + wide - 1 || x == left + wide - 1;
      for (int c = 0; c < 3; ++c)
        picture.at(x, y)[c] = static_cast<std::uint8_t>(style == 1 && rim ? 0 : 40 + (subject * 37 + c * 90) % 170);
    }
  return picture;
}

/// A prepared folder: subjects in the base's style and two others; every third is of split test.
void prepare_squares(const fs::path& folder, int subjects, int side = 16, int styles = 3) {
  fs::create_directories(folder);
  std::vector<Sample> samples;
  std::vector<Picture> pictures;
  for (int style = 0; style < styles; ++style)
    for (int i = 0; i < subjects; ++i) {
      const std::string name =
          std::array{"plain style", "outlined style", "grey style"}[static_cast<std::size_t>(style)];
      samples.push_back({str(name, i), in_style(str("thing ", i), name), name, i % 3 == 2 ? "test" : "train"});
      pictures.push_back(square(i, style, side));
    }
  Data::write(folder, samples, pictures);
}

/// A random base that draws 16 x 16, with adapters to two styles.
struct Fixture {
  Scratch scratch;
  fs::path text = ft::test::tiny_text_model(scratch), base = scratch / "base", data = scratch / "data";

  Fixture() {
    const ft::TextEncoding encoding{.layers = {1}, .before = "A:", .mean = {}, .scale = {}};
    const ft::MMJiTConfig config{.image_size = 16,
                                 .patch_size = 8,
                                 .pca_channels = 16,
                                 .hidden_size = 32,
                                 .txt_input_size = 24,
                                 .txt_preamble_depth = 1,
                                 .depth_double = 1,
                                 .num_heads = 2,
                                 .head_dim = 16,
                                 .prompt_length = 1,
                                 .noise_scale = 1,
                                 .conditioning = ft::Conditioning::adaln_zero};
    fs::create_directories(base);
    Painter painter(Model::initial(config.to_json(), 1, {.threads = 1}), Encoder::open(text, encoding, {.threads = 1}),
                    "plain style", {.threads = 1});
    painter.model().save(base / "model.safetensors", ft::DType::f16,
                         {{"text_encoding", encoding.to_json().dump()}, {"style", "plain style"}});
    for (const auto& [name, style, seed] :
         {std::tuple("one", "outlined style", 1), {"two", "outlined style", 2}, {"grey", "grey style", 3}}) {
      painter.model().attach({.rank = 2, .alpha = 4, .seed = static_cast<std::uint64_t>(seed)});
      ft::Random random(static_cast<std::uint64_t>(seed));
      for (auto* w : painter.model().parameters()) {  // B starts at 0, and then nothing would change
        if (!w->trainable) continue;
        auto values = w->value.to_host(painter.model().context());
        for (float& v : values) v += 0.05f * static_cast<float>(random.normal());
        w->value = ft::Tensor<float, ft::Cpu>(painter.model().context(), w->value.shape(), values);
      }
      painter.save_adapter(scratch / name / "adapter", style, std::string(name) == "two" ? "plain style" : style);
    }
    prepare_squares(data, 24);
  }
  EvaluateOptions options(std::vector<std::string> adapters = {}) const {
    EvaluateOptions o;
    o.base = base;
    o.text_model = text;
    o.data = data;
    for (const auto& name : adapters) o.adapters.push_back(scratch / name / "adapter");
    o.drawing.steps = 2;
    o.threads = 1;
    return o;
  }
  std::string refusal(const EvaluateOptions& o) const {
    std::ostringstream out;
    try {
      evaluate(o, out);
    } catch (const Error& e) {
      return e.message();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("examples/image_measures: the bootstrap's interval is that of a mean") {
  ft::Random random(3);
  Vector values(400);
  for (double& value : values) value = 2 + random.normal();
  const Figure figure = mean_of(values, 7);
  CHECK(figure.value == doctest::Approx(values.mean()));
  const double half = 1.96 * std::sqrt((values.array() - values.mean()).square().mean() / 400);
  CHECK(figure.interval.low == doctest::Approx(figure.value - half).epsilon(0.01));
  CHECK(figure.interval.high == doctest::Approx(figure.value + half).epsilon(0.01));
  CHECK(mean_of(values, 7).interval.low == figure.interval.low);
  CHECK(mean_of(Vector::Ones(5), 7).interval.low == 1);
  CHECK(mean_of(Vector(), 7).value == 0);
}

TEST_CASE("examples/image_measures: the classifier tells apart what is apart, small classes too") {
  ft::Random random(5);
  const auto sample = [&](const std::vector<int>& sizes, std::vector<int>& classes) {
    Matrix rows(0, 12);
    for (std::size_t c = 0; c < sizes.size(); ++c) {
      Matrix own = normal(random, sizes[c], 12);
      own.col(static_cast<Eigen::Index>(c)).array() += 6;
      rows.conservativeResize(rows.rows() + own.rows(), 12);
      rows.bottomRows(own.rows()) = own;
      classes.insert(classes.end(), static_cast<std::size_t>(sizes[c]), static_cast<int>(c));
    }
    return rows;
  };
  std::vector<int> train_classes, test_classes;
  const Matrix train = sample({300, 20, 40}, train_classes), test = sample({50, 50, 50}, test_classes);
  const auto called = Classifier(train, train_classes, 3)(test);
  for (int c = 0; c < 3; ++c) {
    int right = 0;
    for (std::size_t i = 0; i < called.size(); ++i) right += test_classes[i] == c && called[i] == c;
    CHECK(right >= 48);
  }
}

TEST_CASE("examples/image_measures: MMD by hand") {
  Matrix x(2, 1), y(2, 1);
  x << 1, 2;
  y << 0, 0;                                                         // k(., 0) = 1
  CHECK(cubic_kernel(x, x)(0, 1) == 27);                             // (1 * 2 / 1 + 1)^3
  CHECK(mmd(x, y, 1).mmd.value == doctest::Approx(27 + 1 - 1 - 1));  // k(x1,x2) + k(y1,y2) - k(x1,y2) - k(y1,x2)
  CHECK(mmd(x, x, 1).mmd.value == 0);
  CHECK(mmd(x, x, 1).p == 1);
  CHECK_THROWS_AS(mmd(x, y.topRows(1), 1), Error);
}

TEST_CASE("examples/image_measures: MMD is 0 on average where nothing differs, its p uniform; else large and small") {
  ft::Random random(11);
  constexpr int rounds = 200;
  double sum = 0, squares = 0;
  int below_half = 0, below_tenth = 0;
  for (int round = 0; round < rounds; ++round) {
    Matrix shared = normal(random, 20, 8);  // pairs are alike, as two drawings of one subject are
    const auto [figure, p] =
        mmd(shared + normal(random, 20, 8), shared + normal(random, 20, 8), static_cast<std::uint64_t>(round), 99);
    sum += figure.value;
    squares += figure.value * figure.value;
    below_half += p <= 0.5;
    below_tenth += p <= 0.1;
  }
  const double mean = sum / rounds, error = std::sqrt((squares / rounds - mean * mean) / rounds);
  CHECK(std::abs(mean) < 3 * error);
  CHECK(std::abs(below_half - 0.5 * rounds) < 3 * std::sqrt(0.25 * rounds));
  CHECK(std::abs(below_tenth - 0.1 * rounds) < 3 * std::sqrt(0.09 * rounds));

  const auto far = mmd(normal(random, 40, 8, 1), normal(random, 40, 8), 1);
  CHECK(far.p == doctest::Approx(0.0005));
  CHECK(far.mmd.value > 1);
  CHECK(far.mmd.interval.low > 0);
  CHECK(far.mmd.interval.low < far.mmd.value);
  CHECK(far.mmd.interval.high > far.mmd.value);
}

TEST_CASE("examples/image_measures: ranks, with what is equally near counted against") {
  Matrix gallery(4, 1), rows(3, 1);
  gallery << 0, 1, 2, 10;
  rows << 0.1, 1.6, 5.9;
  CHECK(ranks(rows, gallery, {0, 1, 0}) == std::vector<int>{0, 1, 3});
  CHECK(ranks(Matrix::Zero(2, 3), Matrix::Zero(5, 3), {0, 4}) == std::vector<int>{4, 4});
  ft::Random random(2);
  const Matrix a = normal(random, 30, 5), b = normal(random, 20, 5);
  CHECK(distances(a, b)(7, 11) == doctest::Approx((a.row(7) - b.row(11)).norm()));
}

TEST_CASE("examples/image_measures: copies are trained pictures, not good drawings and not bad ones") {
  ft::Random random(4);
  const Matrix trained = normal(random, 50, 20), real = normal(random, 10, 20);
  CHECK(copies(real + 0.1 * normal(random, 10, 20), real, trained).sum() == 0);
  CHECK(copies(trained.topRows(10) + 0.1 * normal(random, 10, 20), real, trained).sum() == 10);
  CHECK(copies(10 * normal(random, 10, 20), real, trained).sum() == 0);
  CHECK(copies(real, real, trained).sum() == 0);
}

TEST_CASE("examples/image_measures: the best is good in all respects") {
  CHECK(harmonic_mean({0.5, 0.5, 0.5}) == doctest::Approx(0.5));
  CHECK(harmonic_mean({1, 1, 0}) == 0);
  CHECK(harmonic_mean({0.6, 0.6}) > harmonic_mean({1, 0.4}));
  Score base, tuned;
  base.mmd.value = 2;
  tuned.mmd.value = 1;
  tuned.style_share.value = tuned.content_top5.value = 0.5;
  CHECK(overall(tuned, base) == doctest::Approx(0.5));
  tuned.mmd.value = 3;
  CHECK(overall(tuned, base) == 0);
}

TEST_CASE("examples/image_measures: features of pictures") {
  const auto a = style_features(square(1, 0, 32)), b = style_features(square(1, 1, 32));
  CHECK(a.size() == 214);
  CHECK(a == style_features(square(1, 0, 32)));
  double difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference = std::max(difference, std::abs(a[i] - b[i]));
  CHECK(difference > 0.2);
  for (const int side : {8, 9, 100})
    for (const double value : style_features(Picture(side, side, 77))) CHECK(std::isfinite(value));

  std::vector<Picture> plain, outlined;
  for (int i = 0; i < 8; ++i) {
    plain.push_back(square(i, 0));
    outlined.push_back(square(i, 1));
  }
  const Matrix x = rows_of(plain, content_features), y = rows_of(outlined, content_features);
  const Matrix c = compared(x, x.colwise().mean());
  CHECK(c.row(3).norm() == doctest::Approx(1));
  const auto rank = ranks(c, compared(y, y.colwise().mean()), {0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(std::count(rank.begin(), rank.end(), 0) >= 7);
  CHECK(std::isfinite(compared(Matrix::Zero(2, 8), Eigen::RowVectorXd::Zero(8)).sum()));
  const Matrix z = Standardiser(x)(x);
  CHECK(std::abs(z.mean()) < 0.2);
  CHECK(z.maxCoeff() <= 5);
}

TEST_CASE("examples/image_measures: evaluate draws with all and reports") {
  const Fixture f;
  auto options = f.options({"one", "two"});
  options.json = f.scratch / "report.json";
  options.sheet = f.scratch / "sheet.png";
  std::ostringstream out;
  const auto report = evaluate(options, out);
  CHECK(report == ft::read_json(options.json));
  CHECK(fs::file_size(options.sheet) > 1000);
  CHECK(report["style"] == "outlined style");
  CHECK(report["base_style"] == "plain style");
  CHECK(report["held_out"] == 8);
  CHECK(report["trained"] == 16);
  CHECK(report["chance"]["content_top5"] == doctest::Approx(5.0 / 8));
  CHECK(report["classifier"]["accuracy"] == 1);
  CHECK(report["real"]["style_share"] == 1);
  CHECK(report["real"]["content_top1"] == 1);
  CHECK(report["real"]["copying"] == 0);
  CHECK(report["real"]["drift"].is_null());
  CHECK(report["copy"]["style_share"] == 0);
  CHECK(report["copy"]["content_top1"] >= 0.75);
  for (const char* who : {"one", "two"}) {
    const auto& score = report["adapters"].at(who);
    CHECK(score["n"] == 8);
    CHECK(score["drift"] > 0);
    CHECK(score["drift_features"] > 0);
    CHECK(score["intervals"]["drift"][0] <= score["drift"]);
    CHECK(score["intervals"]["drift"][1] >= score["drift"]);
    CHECK(score["mmd"] > report["real"]["mmd"]);
  }
  CHECK((report["best"] == "one" || report["best"] == "two"));
  CHECK(out.str().find("\nbest: ") != std::string::npos);
  CHECK(out.str().find("\nbase, outlined style  ") != std::string::npos);

  std::ostringstream again;
  CHECK(evaluate(options, again) == report);
  CHECK(again.str() == out.str());

  CHECK(report["adapters"]["one"]["words"] == "outlined style");
  CHECK(report["adapters"]["two"]["words"] == "plain style");
  ft::write_atomically(f.scratch / "two/adapter/style.json", R"({"style": "outlined style"})");
  const auto other_words = evaluate(options, again);  // it is asked by other words, and draws something else
  CHECK(other_words["adapters"]["two"]["words"] == "outlined style");
  CHECK(other_words["adapters"]["two"]["mmd"] != report["adapters"]["two"]["mmd"]);
  CHECK(other_words["adapters"]["one"] == report["adapters"]["one"]);

  options = f.options();
  options.style = "grey style";
  options.limit = 3;
  const auto alone = evaluate(options, again);
  CHECK(alone["n"] == 3);
  CHECK(alone["held_out"] == 8);
  CHECK(alone["best"].is_null());
}

TEST_CASE("examples/image_measures: pictures without a style are the adapter's; subjects of their own have no copy") {
  const Fixture f;
  std::vector<Sample> samples;
  std::vector<Picture> pictures;
  for (int i = 0; i < 16; ++i) {
    const std::string split = i % 4 == 3 ? "test" : "train";
    samples.push_back({"a", str("own ", i), "", split});
    samples.push_back({"b", str("thing ", i, ", plain style"), "plain style", split});
    pictures.push_back(square(i, 1));
    pictures.push_back(square(i, 0));
  }
  fs::create_directories(f.scratch / "own");
  Data::write(f.scratch / "own", samples, pictures);
  auto options = f.options({"one"});
  options.data = f.scratch / "own";
  std::ostringstream out;
  const auto report = evaluate(options, out);
  CHECK(report["style"] == "");
  CHECK(report["copy"].is_null());
  CHECK(report["adapters"]["one"]["n"] == 4);
}

TEST_CASE("examples/image_measures: what does not fit is one clear line") {
  const Fixture f;
  CHECK(f.refusal(f.options()) == "without an adapter nothing says which style is wanted");
  auto options = f.options({"one"});
  options.style = "cubist style";
  CHECK(f.refusal(options) == f.data.string() + ": has no picture in 'cubist style'");
  options = f.options({"one"});
  options.split = "valid";
  CHECK(f.refusal(options) == f.data.string() + ": has no split 'valid'");
  options.split = "train";
  CHECK(f.refusal(options) == "split 'train' is what was learned");
  CHECK(f.refusal(f.options({"one", "grey"})) == str((f.scratch / "grey/adapter").string(), ": draws 'grey style', ",
                                                     (f.scratch / "one/adapter").string(), " 'outlined style'"));
  CHECK(f.refusal(f.options({"none"})).find((f.scratch / "none/adapter").string()) != std::string::npos);

  options = f.options({"one"});
  prepare_squares(options.data = f.scratch / "small", 24, 12);
  CHECK(f.refusal(options) == options.data.string() + ": pictures of 12 x 12, the base draws 16 x 16");
  prepare_squares(options.data = f.scratch / "few", 4);
  CHECK(f.refusal(options) ==
        options.data.string() + ": split 'test' has 1 subject in 'outlined style', two are the least");
  options.style = "plain style";
  prepare_squares(options.data = f.scratch / "alone", 24, 16, 1);
  CHECK(f.refusal(options) == options.data.string() + ": has no other style to tell 'plain style' from");
}
