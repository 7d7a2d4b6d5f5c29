// src/image.cpp: pictures, flow matching, drawing, TextToImage, Painter.
#include <ftlib/image/flow.inl.hpp>
#include <ftlib/image/flow_data.inl.hpp>
#include <ftlib/image/painter.inl.hpp>
#include <ftlib/image/picture.inl.hpp>
#include <ftlib/image/text_to_image.inl.hpp>

namespace ft::inline FTLIB_ABI {
template Tensor<float, Cpu> flow_loss(Context<Cpu>&, Denoiser<float, Cpu>&, const FlowBatch&, const FlowOptions&, bool);
template std::vector<float> denoise(Context<Cpu>&, Denoiser<float, Cpu>&, const PackedText&, std::vector<float>,
                                    const DrawOptions&, const std::function<void(const DrawStep&)>&);
template std::vector<float> draw(Context<Cpu>&, Denoiser<float, Cpu>&, const PackedText&, const std::vector<uint64_t>&,
                                 const DrawOptions&, const std::function<void(const DrawStep&)>&);
template class TextToImage<float, Cpu>;
template class Painter<float, Cpu>;
}  // namespace ft::inline FTLIB_ABI
