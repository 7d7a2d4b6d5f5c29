// train/screen/listeners.inl.hpp: what train/screen/listeners.hpp declares.
#pragma once
#include <ftlib/train/screen/listeners.hpp>

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void MetricsListener::begin(int64_t done) {
  log_ = done > 0 ? MetricsLog::resume(path_, done) : MetricsLog::create(path_);
}
FTLIB_INLINE void MetricsListener::step(const Step& s) {
  log_->write({{"step", s.step},
               {"loss", s.loss},
               {"lr", s.lr},
               {"grad_norm", s.grad_norm},
               {"tokens", s.tokens},
               {"tokens_per_second", s.tokens_per_second},
               {"memory", s.memory},
               {"skipped", s.skipped}});
}
FTLIB_INLINE void MetricsListener::evaluation(int64_t step, double loss) {
  log_->write({{"step", step}, {"held_out_loss", loss}});
}

FTLIB_INLINE void TensorBoardListener::begin(int64_t done) {
  if (done > 0) writer_ = TensorBoardWriter::resume(path_, done);
  else writer_.emplace(path_);
}
FTLIB_INLINE void TensorBoardListener::step(const Step& s) {
  writer_->scalar("train/loss", s.step, s.loss);
  writer_->scalar("train/lr", s.step, static_cast<double>(s.lr));
  writer_->scalar("train/grad_norm", s.step, static_cast<double>(s.grad_norm));
  writer_->scalar("train/tokens_per_second", s.step, s.tokens_per_second);
}
FTLIB_INLINE void TensorBoardListener::evaluation(int64_t step, double loss) {
  writer_->scalar("held_out/loss", step, loss);
}

}  // namespace ft::inline FTLIB_ABI
