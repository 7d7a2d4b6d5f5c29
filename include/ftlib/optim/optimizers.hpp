// optim/optimizers.hpp: the table of optimizers, and OptimizerConfig, which holds the settings of any of them.
//
// To add one: its file (see optimizer.hpp), its include here, and its name in OptimizerConfig's variant.
#pragma once
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/adamw8bit.hpp>
#include <ftlib/optim/lion.hpp>

#include <variant>  // std::variant

namespace ft::inline FTLIB_ABI {

/// The settings of an optimizer, from which a trainer makes it for its own types:
///
///     .optimizer = ft::AdamW{.lr = 5e-4f}
///     .optimizer = ft::OptimizerConfig::own<float, ft::Cpu>(0.1f, "sgd", [](ft::ParameterGroups g) {
///                    return std::make_unique<Sgd>(std::move(g)); })
class OptimizerConfig {
 public:
  OptimizerConfig() : kind_(AdamW{}) {}
  OptimizerConfig(const AdamW& settings) : kind_(settings) {}
  OptimizerConfig(const AdamW8bit& settings) : kind_(settings) {}
  OptimizerConfig(const Lion& settings) : kind_(settings) {}
  /// A host's own, for one compute type and device. `description` has its name and whatever else of its settings
  /// decides its numbers: a run is not resumed with another one.
  template <Scalar T, Device D>
  static OptimizerConfig own(float lr, std::string description,
                             std::function<std::unique_ptr<Optimizer<T, D>>(ParameterGroups)> make) {
    OptimizerConfig config;
    config.kind_ = Own{lr, std::move(description), dtype_of<T>, D::name,
                       std::make_shared<std::function<std::unique_ptr<Optimizer<T, D>>(ParameterGroups)>>(make)};
    return config;
  }

  /// The learning rate, which a schedule then multiplies.
  float lr() const {
    return std::visit([](const auto& settings) { return settings.lr; }, kind_);
  }
  void describe(Description& d) const {
    std::visit([&](const auto& settings) { settings.describe(d); }, kind_);
  }
  /// Throws Error where a setting is out of its range, or a host's optimizer is for another type or device.
  template <Scalar T, Device D> std::unique_ptr<Optimizer<T, D>> make(ParameterGroups groups = {}) const {
    return std::visit(
        [&]<class Settings>(const Settings& settings) -> std::unique_ptr<Optimizer<T, D>> {
          if constexpr (std::same_as<Settings, Own>) {
            if (settings.type != dtype_of<T> || settings.device != D::name)
              throw Error(str("optimizer '", settings.description, "': is for ", settings.type, " on ", settings.device,
                              ", the trainer computes in ", dtype_of<T>, " on ", D::name));
            using Make = std::function<std::unique_ptr<Optimizer<T, D>>(ParameterGroups)>;
            return (*static_cast<const Make*>(settings.make.get()))(std::move(groups));
          } else {
            return std::make_unique<typename Settings::template Optimizer<T, D>>(settings, std::move(groups));
          }
        },
        kind_);
  }

 private:
  struct Own {
    float lr;
    std::string description;
    DType type;
    std::string_view device;
    std::shared_ptr<const void> make;  // a std::function for that type and device

    void describe(Description& d) const {
      d.add("optimizer", description);
      d.add("lr", lr);
    }
  };
  std::variant<AdamW, AdamW8bit, Lion, Own> kind_;
};

}  // namespace ft::inline FTLIB_ABI
