// tests/image/fixture.hpp: expected.json and expected.safetensors of a folder, as tools/fixture_files.py writes them.
#pragma once
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/tensor/quantised.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace ft::test {

struct Fixture {
  Json expected;
  SafetensorsFile arrays;

  explicit Fixture(const std::filesystem::path& folder)
      : expected(read_json(folder / "expected.json")), arrays(SafetensorsFile::open(folder / "expected.safetensors")) {}

  std::vector<float> array(const std::string& name) const {
    const auto stored = arrays.tensor(name);
    std::vector<float> values(static_cast<std::size_t>(stored.shape.count()));
    dequantise_row(stored.type, stored.data, 0, stored.shape.count(), values.data());
    return values;
  }
  template <Device D> Tensor<float, D> tensor(Context<D>& ctx, const std::string& name) const {
    return Tensor<float, D>(ctx, arrays.info(name).shape, array(name));
  }
  /// The largest difference; infinite where sizes differ.
  double difference(std::span<const float> got, const std::string& name) const {
    const auto wanted = array(name);
    if (got.size() != wanted.size()) return INFINITY;
    double most = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double d = std::abs(double{got[i]} - double{wanted[i]});
      if (!(d <= most)) most = d;
    }
    return most;
  }
  /// The largest value, `least` at least.
  double largest(const std::string& name, double least = 1) const {
    for (const float v : array(name)) least = std::max(least, std::abs(double{v}));
    return least;
  }
};

}  // namespace ft::test
