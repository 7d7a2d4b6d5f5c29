// A host of the runtime, which opens what is not there.
#include <ftlib/text/causal_lm.hpp>

#include <iostream>

int main() try {
  ft::CausalLM<float, ft::Cpu>::from_pretrained("no such model");
  return 1;
} catch (const ft::Error& e) {
  std::cout << "ftlib " FTLIB_VERSION ": " << e.message() << '\n';
  return e.kind() == ft::ErrorKind::bad_file ? 0 : 1;
}
