// models/kit/autoencoder.hpp: what autoencoders of pictures have in common: pixels in, the latents out that a denoiser
// works on, and back.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter

#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

/// What a host may ask of an autoencoder.
struct AutoencoderInfo {
  int64_t channels = 0;  // of latents, as a denoiser takes them
  int64_t pixels = 0;    // along a side of what one place of them stands for
};

template <Scalar T, Device D> class Autoencoder {
 public:
  virtual ~Autoencoder() = default;

  virtual AutoencoderInfo info() const = 0;
  /// Pictures (B, 3, H, W) in [-1, 1] to latents (B, channels, H / pixels, W / pixels), normalised as a denoiser learns
  /// them: the distribution's mean, nothing is drawn. Throws Error where the sides are no multiples of `pixels`.
  virtual Tensor<T, D> encode(Context<D>& ctx, const Tensor<T, D>& pictures) = 0;
  /// The way back, to about [-1, 1], not cut.
  virtual Tensor<T, D> decode(Context<D>& ctx, const Tensor<T, D>& latents) = 0;
  /// Every parameter once.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;

 protected:
  Autoencoder() = default;
  Autoencoder(Autoencoder&&) = default;
  Autoencoder& operator=(Autoencoder&&) = default;
};

}  // namespace ft::inline FTLIB_ABI
