// src/adapters.cpp: adapters, their set and their files.
#include <ftlib/adapters/adapted.inl.hpp>
#include <ftlib/adapters/config.inl.hpp>
#include <ftlib/adapters/data.inl.hpp>
#include <ftlib/adapters/diffusers_lora.inl.hpp>
#include <ftlib/adapters/dora.inl.hpp>
#include <ftlib/adapters/kinds.inl.hpp>
#include <ftlib/adapters/lora.inl.hpp>
#include <ftlib/adapters/peft.inl.hpp>
#include <ftlib/adapters/residual.cpu.hpp>
#include <ftlib/adapters/set.inl.hpp>
#include <ftlib/adapters/trained_copy.inl.hpp>

namespace ft::inline FTLIB_ABI {
template class AdapterSet<float, Cpu>;
template class Adapted<float, Cpu>;
template class LoraAdapter<float, Cpu>;
template class DoraAdapter<float, Cpu>;
template class TrainedCopy<float, Cpu>;
// For gradient checks.
template class AdapterSet<double, Cpu>;
template class LoraAdapter<double, Cpu>;
template class DoraAdapter<double, Cpu>;
template class TrainedCopy<double, Cpu>;
}  // namespace ft::inline FTLIB_ABI
