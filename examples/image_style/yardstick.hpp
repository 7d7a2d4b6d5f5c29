// examples/image_style/yardstick.hpp: the real pictures of a prepared folder as a measure of drawings in one of its
// styles.
#pragma once
#include "data.hpp"
#include "features.hpp"
#include "measures.hpp"

#include <algorithm>  // std::min, std::clamp
#include <cstdint>    // std::int64_t, std::uint64_t
#include <map>        // std::map
#include <numeric>    // std::iota
#include <optional>   // std::optional
#include <set>        // std::set
#include <string>     // std::string
#include <utility>    // std::move
#include <vector>     // std::vector

namespace image_style {

/// How well pictures, one a held-out subject, meet the style. Intervals are a bootstrap's over subjects.
struct Score {
  std::int64_t n = 0;
  Figure style_share;                ///< called the style by a classifier trained on real pictures of all styles
  Figure mmd;                        ///< squared MMD from the real pictures of the same subjects in the style
  double mmd_p = 1;                  ///< how often pictures that are alike would be as far off
  Figure content_top1;               ///< of the split's real pictures in the style the subject's own is the nearest
  Figure content_top5;               ///< or among the five nearest
  Figure copying;                    ///< rather a trained picture of another subject: see copies()
  std::optional<Figure> drift = {};  ///< under the base's own captions, from the base's drawings: RMS of pixels, 0..1
  std::optional<Figure> drift_features = {};  ///< the same in style features, in standard deviations of real pictures

  ft::Json to_json() const {
    ft::Json json{{"n", n}, {"mmd_p", mmd_p}}, intervals = ft::Json::object();
    const auto add = [&](const char* name, const std::optional<Figure>& figure) {
      json[name] = figure ? ft::Json(figure->value) : ft::Json();
      if (figure) intervals[name] = {figure->interval.low, figure->interval.high};
    };
    add("style_share", style_share);
    add("mmd", mmd);
    add("content_top1", content_top1);
    add("content_top5", content_top5);
    add("copying", copying);
    add("drift", drift);
    add("drift_features", drift_features);
    json["intervals"] = std::move(intervals);
    return json;
  }
};

/// Of several adapters the best has the largest harmonic mean of three shares, all of which must be high: style_share,
/// content_top5, and the part of the base's MMD that is gone.
inline double overall(const Score& tuned, const Score& base) {
  const double gone = base.mmd.value > 0 ? 1 - std::clamp(tuned.mmd.value / base.mmd.value, 0.0, 1.0) : 0;
  return harmonic_mean({tuned.style_share.value, tuned.content_top5.value, gone});
}

class Yardstick {
 public:
  /// A subject to draw with its real pictures.
  struct Subject {
    std::string name;
    Picture real, copy;  ///< in the style, and in the base's; `copy` is empty where there is none
    Eigen::Index row;    ///< among all held-out subjects of the style
  };

  /// Of `split` at most `limit` subjects are drawn, evenly spread; 0: all. Throws Error, naming `folder`, where the
  /// data lack what is measured with: two pictures of the style to test and to train, another style.
  Yardstick(const Data& data, const std::string& folder, const std::string& style, const std::string& base_style,
            const std::string& split, std::int64_t limit = 0)
      : style_(style) {
    check(data, folder, split);
    std::map<std::string, std::vector<Picture>> trained;
    std::map<std::string, std::map<std::string, Picture>> held_out;  // one for each subject
    for (std::int64_t i = 0; i < data.size(); ++i) {
      const Sample& sample = data.samples()[static_cast<std::size_t>(i)];
      if (sample.split == "train") trained[sample.style].push_back(data.picture(i));
      if (sample.split == split) held_out[sample.style].try_emplace(sample.subject(), data.picture(i));
    }
    learn_styles(trained);
    const Matrix content = rows_of(trained.at(style), content_features);
    content_mean_ = content.colwise().mean();
    base_content_mean_ = trained.contains(base_style)
                             ? rows_of(trained.at(base_style), content_features).colwise().mean()
                             : content_mean_;
    trained_content_ = compared(content, content_mean_);
    trained_style_ = style_rows(trained.at(style));

    std::vector<Subject> all;
    for (const auto& [subject, picture] : held_out.at(style)) {
      const auto copy = held_out[base_style].find(subject);
      all.push_back({subject, picture, copy == held_out[base_style].end() ? Picture() : copy->second,
                     static_cast<Eigen::Index>(all.size())});
    }
    std::vector<Picture> real;
    real.reserve(all.size());
    for (const Subject& subject : all) real.push_back(subject.real);
    real_style_ = style_rows(real);
    real_content_ = compared(rows_of(real, content_features), content_mean_);
    const auto n = limit > 0 ? std::min(static_cast<std::size_t>(limit), all.size()) : all.size();
    for (std::size_t i = 0; i < n; ++i) subjects_.push_back(all[i * all.size() / n]);
    test_classifier(held_out);
  }

  const std::vector<Subject>& subjects() const { return subjects_; }
  /// Among how many real pictures a drawing has to find its own.
  std::int64_t held_out() const { return real_style_.rows(); }
  std::int64_t trained() const { return trained_style_.rows(); }

  /// Of a picture for each row, see Subject::row; `base_style`: they are drawn in the base's style.
  Score score(const std::vector<Picture>& pictures, const std::vector<Eigen::Index>& rows, bool base_style) const {
    const Matrix style = style_rows(pictures), real = real_style_(rows, Eigen::all),
                 content =
                     compared(rows_of(pictures, content_features), base_style ? base_content_mean_ : content_mean_);
    const auto called = (*classifier_)(style);
    const auto rank = ranks(content, real_content_, rows);
    Vector hits(style.rows()), first(style.rows()), five(style.rows());
    for (Eigen::Index i = 0; i < style.rows(); ++i) {
      hits[i] = called[static_cast<std::size_t>(i)] == class_;
      first[i] = rank[static_cast<std::size_t>(i)] < 1;
      five[i] = rank[static_cast<std::size_t>(i)] < 5;
    }
    const auto [distance, p] = mmd(style, real, seed);
    return {.n = style.rows(),
            .style_share = mean_of(hits, seed),
            .mmd = distance,
            .mmd_p = p,
            .content_top1 = mean_of(first, seed),
            .content_top5 = mean_of(five, seed),
            .copying = mean_of(copies(content, real_content_(rows, Eigen::all), trained_content_), seed)};
  }
  /// Of the subjects' own real pictures: what cannot be surpassed. Their MMD is from as many trained ones of the style.
  Score score_real() const {
    std::vector<Picture> pictures;
    std::vector<Eigen::Index> rows, others(static_cast<std::size_t>(trained()));
    for (const Subject& subject : subjects_) {
      pictures.push_back(subject.real);
      rows.push_back(subject.row);
    }
    Score s = score(pictures, rows, false);
    std::iota(others.begin(), others.end(), 0);
    ft::Random(seed).shuffle(others);
    others.resize(std::min(others.size(), rows.size()));
    rows.resize(others.size());
    const auto [distance, p] = mmd(real_style_(rows, Eigen::all), trained_style_(others, Eigen::all), seed);
    s.mmd = distance;
    s.mmd_p = p;
    return s;
  }
  /// Sets how far pictures are from those that the base drew of the same captions and seeds.
  void score_drift(Score& s, const std::vector<Picture>& pictures, const std::vector<Picture>& base) const {
    const Matrix difference = style_rows(pictures) - style_rows(base);
    const Vector features = (difference.rowwise().squaredNorm() / static_cast<double>(difference.cols())).cwiseSqrt();
    Vector pixels = Vector::Zero(features.size());
    for (std::size_t i = 0; i < base.size(); ++i) {
      double sum = 0;
      for (std::size_t k = 0; k < base[i].rgb.size(); ++k) {
        const double d = (pictures[i].rgb[k] - base[i].rgb[k]) / 255.0;
        sum += d * d;
      }
      pixels[static_cast<Eigen::Index>(i)] = std::sqrt(sum / static_cast<double>(base[i].rgb.size()));
    }
    s.drift = mean_of(pixels, seed);
    s.drift_features = mean_of(features, seed);
  }

  /// How often the classifier is right about held-out real pictures, of all styles and of each.
  const ft::Json& classifier_accuracy() const { return accuracy_; }

 private:
  static constexpr std::uint64_t seed = 1;  // of bootstraps and permutations, so that figures repeat

  void check(const Data& data, const std::string& folder, const std::string& split) const {
    std::map<std::string, std::map<std::string, std::set<std::string>>> subjects;  // of each style's splits
    std::map<std::string, int> splits;
    for (const Sample& s : data.samples()) {
      subjects[s.style][s.split].insert(s.subject());
      ++splits[s.split];
    }
    const auto names = [](const auto& map) {
      std::string all;
      for (const auto& [name, value] : map) all += (all.empty() ? "'" : ", '") + name + "'";
      return all;
    };
    if (!splits.contains(split))
      throw Error(str(folder, ": has no split '", split, "'"), str("it has ", names(splits), "; see --split."));
    if (split == "train") throw Error("split 'train' is what was learned", "name a split that is held out.");
    if (!subjects.contains(style_))
      throw Error(str(folder, ": has no picture in '", style_, "'"), str("it has ", names(subjects), "; see --style."));
    for (const auto& part : {std::string("train"), split})
      if (const auto n = subjects[style_][part].size(); n < 2)
        throw Error(str(folder, ": split '", part, "' has ", n, n == 1 ? " subject" : " subjects", " in '", style_,
                        "', two are the least"),
                    "prepare more pictures, or larger shares of them for it.");
    std::erase_if(subjects, [](const auto& style) { return !style.second.contains("train"); });
    if (subjects.size() < 2)
      throw Error(str(folder, ": has no other style to tell '", style_, "' from"),
                  "prepare the folders of several styles, the base's among them, into one.");
  }

  Matrix style_rows(const std::vector<Picture>& pictures) const {
    return (*standardised_)(rows_of(pictures, style_features));
  }
  void learn_styles(const std::map<std::string, std::vector<Picture>>& trained) {
    std::vector<Picture> pictures;
    std::vector<int> classes;
    for (const auto& [style, own] : trained) {
      const int c = static_cast<int>(class_of_.size());
      class_of_[style] = c;
      pictures.insert(pictures.end(), own.begin(), own.end());
      classes.insert(classes.end(), own.size(), c);
    }
    class_ = class_of_.at(style_);
    const Matrix features = rows_of(pictures, style_features);
    standardised_.emplace(features);
    classifier_.emplace((*standardised_)(features), classes, static_cast<int>(class_of_.size()));
  }
  void test_classifier(const std::map<std::string, std::map<std::string, Picture>>& held_out) {
    const auto share = [](std::int64_t part, std::int64_t all) {
      return all > 0 ? ft::Json(static_cast<double>(part) / static_cast<double>(all)) : ft::Json();
    };
    ft::Json styles = ft::Json::object();
    std::int64_t right = 0, n = 0, others = 0, others_called = 0;
    for (const auto& [style, own] : held_out) {
      const auto known = class_of_.find(style);
      if (known == class_of_.end() || own.empty()) continue;
      std::vector<Picture> pictures;
      for (const auto& [subject, picture] : own) pictures.push_back(picture);
      const auto called = (*classifier_)(style_rows(pictures));
      const auto own_right = std::count(called.begin(), called.end(), known->second);
      styles[style] = {{"accuracy", share(own_right, std::ssize(called))}, {"n", called.size()}};
      right += own_right;
      n += std::ssize(called);
      if (known->second == class_) continue;
      others += std::ssize(called);
      others_called += std::count(called.begin(), called.end(), class_);
    }
    accuracy_ = {{"accuracy", share(right, n)},
                 {"n", n},
                 {"others_called_style", share(others_called, others)},
                 {"styles", std::move(styles)}};
  }

  std::string style_;
  std::map<std::string, int> class_of_;
  int class_ = 0;
  std::optional<Standardiser> standardised_;
  std::optional<Classifier> classifier_;
  ft::Json accuracy_;
  std::vector<Subject> subjects_;
  Matrix real_style_, real_content_, trained_style_, trained_content_;  // of the style: held-out and trained pictures
  Eigen::RowVectorXd content_mean_, base_content_mean_;
};

}  // namespace image_style
