// tests/packaging/other.cpp: the second translation unit of the host application.
#include <ftlib/finetune.hpp>

long parameters_of(ft::CausalLM<float, ft::Cpu>& lm) { return lm.summary().parameters; }
