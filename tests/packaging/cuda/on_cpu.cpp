// tests/packaging/cuda/on_cpu.cpp: the library on the CPU.
#include "on_device.hpp"

float on_cpu() { return on_device<ft::Cpu>(); }
