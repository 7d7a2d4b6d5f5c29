// train/run.inl.hpp: how a plan and a step are written.
#pragma once
#include <ftlib/core/message.hpp>  // pretty_bytes
#include <ftlib/train/run.hpp>

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const Step& s) {
  out << "step " << s.step;
  if (s.steps > 0) out << '/' << s.steps;
  return out << "  loss " << s.loss << "  lr " << s.lr << "  norm " << s.grad_norm << "  "
             << static_cast<int64_t>(s.tokens_per_second) << ' ' << s.unit << "/s"
             << (s.skipped ? "  skipped: not finite" : "");
}

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const Plan& p) {
  out << "plan: ";
  if (p.steps > 0) out << p.steps << " steps, " << pretty_count(p.tokens) << ' ' << p.unit;
  else out << "as long as there are data";
  out << "; memory " << pretty_bytes(p.peak_bytes) << " (weights " << pretty_bytes(p.weight_bytes)
      << ", gradients and optimizer " << pretty_bytes(p.state_bytes);
  if (p.ranks > 1)
    out << " with a share of its states among " << p.ranks << " ranks, " << pretty_bytes(p.optimizer_bytes);
  out << ", activations " << pretty_bytes(p.activation_bytes) << ")";
  if (p.steps > 0) out << "; about " << pretty_duration(p.seconds);
  if (p.ranks > 1)
    out << printed("; exchange %.3g s a step, %s out of each rank (measured: %s/s and %.2g ms between ranks)",
                   p.exchange_seconds, pretty_bytes(static_cast<int64_t>(p.exchange_bytes)).c_str(),
                   pretty_bytes(static_cast<int64_t>(p.bandwidth)).c_str(), 1000 * p.latency);
  if (p.ranks > 1 && p.saves)
    out << (p.saves_together ? "; all ranks see the run's folder, and each writes its share of a checkpoint"
                             : "; the run's folder is not the same on all ranks: rank 0 writes checkpoints for all");
  return out << '\n';
}

}  // namespace ft::inline FTLIB_ABI
