// tests/train/progress.cpp: the live line on a terminal and in a file, numbers for people, memory, and the loss curve.
#include <doctest/doctest.h>
#include <cmath>
#include <ftlib/train/screen/plot.hpp>
#include <ftlib/train/screen/progress.hpp>

#include <algorithm>
#include <sstream>

using namespace ft;

namespace {
int64_t count(const std::string& text, std::string_view part) {
  int64_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
}  // namespace

TEST_CASE("train/progress: bytes, counts and durations") {
  CHECK(pretty_bytes(0) == "0 B");
  CHECK(pretty_bytes(999) == "999 B");
  CHECK(pretty_bytes(1000) == "1.00 kB");
  CHECK(pretty_bytes(3'169'000'000) == "3.17 GB");
  CHECK(pretty_bytes(999'999'999) == "1.00 GB");
  CHECK(pretty_bytes(99'970'000) == "100 MB");
  CHECK(pretty_count(512) == "512");
  CHECK(pretty_count(134'515'008) == "135 M");
  CHECK(pretty_count(4'884'480) == "4.88 M");
  CHECK(pretty_duration(0.42) == "0.4 s");
  CHECK(pretty_duration(59.4) == "59 s");
  CHECK(pretty_duration(59.6) == "1:00");
  CHECK(pretty_duration(3723) == "1:02:03");
  CHECK(pretty_duration(std::nan("")) == "?");
}

TEST_CASE("train/progress: memory of this process follows what it holds") {
  const ProcessMemory before = process_memory();
  std::vector<char> held(64 << 20, 1);
  const ProcessMemory after = process_memory();
  CHECK(held.back() == 1);
  CHECK(after.peak >= int64_t{64} << 20);
  if (before.resident) {  // where /proc is there
    CHECK(after.resident - before.resident > int64_t{48} << 20);
    CHECK(after.peak >= before.peak);
  }
}

TEST_CASE("train/progress: the line has every figure, and time left from the pace of this run") {
  double now = 100;
  std::ostringstream out;
  Progress progress(out, {.style = Progress::Style::plain, .first_step = 100, .now = [&] { return now; }});
  ProgressState state{
      .step = 120, .steps = 400, .loss = 1.23456, .lr = 4.8e-4, .tokens_per_second = 254.4, .memory = 1'050'000'000};
  CHECK(progress.line({.step = 3, .steps = 4, .what = "answers"}, 110).starts_with("answers 3/4 (75 %)"));
  CHECK(progress.line(state, 110) == "step 120/400 (30 %)  loss 1.2346  lr 4.80e-04  254 tokens/s  1.05 GB  2:20 left");
  state.step = 400;
  state.loss = NAN;
  state.lr = {};
  CHECK(progress.line(state, 110) == "step 400/400 (100 %)  loss nan  254 tokens/s  1.05 GB  10 s");
  CHECK(progress.line({.step = 100, .steps = 400}, 110) == "step 100/400 (25 %)");
}

TEST_CASE("train/progress: in a file, the first and last step and one line each so many seconds or steps") {
  double now = 0;
  std::ostringstream out;
  {
    Progress progress(out, {.plain_every_seconds = 10, .now = [&] { return now; }});
    for (int64_t step = 1; step <= 40; ++step, ++now) progress.update({.step = step, .steps = 40});
  }
  CHECK(out.str().find_first_of("\r\x1b") == std::string::npos);
  CHECK(count(out.str(), "\n") == 5);  // steps 1, 11, 21, 31, 40
  CHECK(out.str().starts_with("step 1/40"));
  CHECK(count(out.str(), "step 40/40") == 1);
  out.str("");
  {
    Progress progress(out, {.plain_every_steps = 20, .now = [] { return 0.0; }});
    for (int64_t step = 1; step <= 45; ++step) progress.update({.step = step, .steps = 90});
  }
  CHECK(count(out.str(), "\n") == 4);  // steps 1, 21, 41, and 45 at the end of a run that stopped early
}

TEST_CASE("train/progress: on a terminal one line is written over, messages go above it") {
  double now = 0;
  std::ostringstream out;
  {
    Progress progress(out, {.style = Progress::Style::terminal, .now = [&] { return now; }});
    progress.update({.step = 1, .steps = 3});
    now += 0.01;
    progress.update({.step = 2, .steps = 3});  // too soon to be seen
    progress.message("saved");
    progress.update({.step = 3, .steps = 3});
  }
  CHECK(out.str() ==
        "\rstep 1/3 (33 %)  0.0 s left\x1b[K"
        "\r\x1b[Ksaved\n\rstep 2/3 (66 %)  0.0 s left\x1b[K"
        "\rstep 3/3 (100 %)  0.0 s\x1b[K\n");
  out.str("");
  Progress progress(out, {.style = Progress::Style::terminal});
  progress.update({.step = 1, .steps = int64_t{1} << 60, .loss = 1e300});  // wider than the terminal
  CHECK(out.str().size() < 110);
}

TEST_CASE("train/plot: curves, ticks, names and both themes are in the SVG") {
  std::vector<PlotSeries> series{{"train <1>", {}}, {"held out", {{0, 3.5}, {500, 1.25}, {1000, 0.75}}}};
  for (int i = 0; i <= 1000; ++i) series[0].points.push_back({static_cast<double>(i), 4 - 0.0035 * i});
  series[0].points.push_back({1001, NAN});
  const std::string svg = loss_curve_svg(series, {.title = "Q&A"});
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<polyline") == 2);
  CHECK(count(svg, "<circle") == 3);
  CHECK(count(svg, "nan") == 0);
  CHECK(count(svg, "<title>Q&amp;A</title>") == 1);
  CHECK(count(svg, "train &lt;1&gt;, last 0.500") == 1);
  CHECK(count(svg, "held out, last 0.750") == 1);
  CHECK(count(svg, ">1000</text>") == 1);  // a tick at the last step
  CHECK(count(svg, "prefers-color-scheme:dark") == 1);
  CHECK(svg.size() < 12'000);
  CHECK(svg.find("700.0,") != std::string::npos);  // held out ends at the right edge
}

TEST_CASE("train/plot: no data, one point and constant curves are drawn without a division by zero") {
  for (const auto& points :
       {std::vector<PlotSeries::Point>{}, {{5, 2}}, {{1, 2}, {2, 2}}, {{1, INFINITY}}, {{0, 0}, {1, 1e-7}}}) {
    const std::vector<PlotSeries> series{{"loss", points}};
    const std::string svg = loss_curve_svg(series);
    CHECK(count(svg, "nan") == 0);
    CHECK(count(svg, "inf") == 0);
    CHECK(count(svg, "no data") == (points.empty() || !std::isfinite(points[0].y) ? 1 : 0));
    CHECK(count(svg, "class=\"grid\"") <= 12);
  }
}
