// tests/packaging/host.cpp: a host application of two translation units that both include everything.
#include <ftlib/finetune.hpp>

#include <iostream>

long parameters_of(ft::CausalLM<float, ft::Cpu>& lm);  // other.cpp

int main(int argc, char** argv) try {
  auto lm = ft::CausalLM<float, ft::Cpu>::from_pretrained(argc > 1 ? argv[1] : "", {.threads = 1});
  lm.attach({.rank = 2});
  return parameters_of(lm) > 0 ? 0 : 1;
} catch (const ft::Error& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
