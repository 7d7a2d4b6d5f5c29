// tests/packaging/cuda/main.cpp: calls the part on the GPU, and where all ways are in one program, each of them.
#include <cmath>
#include <exception>
#include <iostream>
#include <string>

float on_gpu();
#if TOGETHER
float on_cpu();
float inline_on_gpu();
#endif

int main() {
  const float expected = -0.5f;  // y[0] is -1, and the first gradient 0.5
#if TOGETHER
  if (std::abs(on_cpu() - expected) > 1e-6f) return 1;
#endif
  try {
    if (std::abs(on_gpu() - expected) > 1e-6f) return 1;
#if TOGETHER
    if (std::abs(inline_on_gpu() - expected) > 1e-6f) return 1;
#endif
    std::cout << "on the GPU\n";
  } catch (const std::exception& e) {  // without a GPU: in one clear sentence
    const bool clear = std::string(e.what()).find("there is no device 0") != std::string::npos;
    std::cout << (clear ? "no GPU here, and it says so\n" : e.what());
    return !clear;
  }
}
