// src/core.cpp: the bodies of core/ and tensor/: messages, the thread pool, the CPU's context.
#include <ftlib/core/message.inl.hpp>
#include <ftlib/core/parallel.inl.hpp>
#include <ftlib/tensor/context.cpu.inl.hpp>
#include <ftlib/tensor/device.inl.hpp>
#include <ftlib/tensor/quantise.inl.hpp>
