// tests/packaging/records.cpp: a small header-only host: reads a file of records.
#include <ftlib/text/records.hpp>

#include <iostream>

int main(int, char** argv) try {
  return ft::text::read_records(argv[1]).size() == 1 ? 0 : 1;
} catch (const ft::Error& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
