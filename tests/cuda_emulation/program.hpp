// tests/cuda_emulation/program.hpp: what the running program knows about itself: its functions' names, where its
// thread-local variables (here: a kernel's shared memory) lie, and the source line of an instruction.
#pragma once
#include <cxxabi.h>    // abi::__cxa_demangle
#include <elf.h>       // Elf64_Sym
#include <link.h>      // dl_iterate_phdr
#include <sys/mman.h>  // mmap
#include <sys/stat.h>  // fstat

#include <fcntl.h>    // open
#include <unistd.h>   // close
#include <algorithm>  // std::upper_bound
#include <cstddef>    // std::byte
#include <cstdint>    // std::uintptr_t
#include <cstdio>     // popen
#include <cstdlib>    // std::free
#include <string>     // std::string
#include <vector>     // std::vector

namespace cuda_emulation {

class Program {
 public:
  /// A variable or function: bytes [begin, begin + size) of the thread-local block, or of the program.
  struct Symbol {
    std::uintptr_t begin;
    std::size_t size;
    std::string name;
  };

  Program() {
    use_thread();
    read_symbols();
  }
  /// The calling thread runs kernels from here on: the thread-local block is its own.
  void use_thread() {
    if (here_ == &here_of_thread()) return;
    here_ = &here_of_thread();
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* self) {
          static_cast<Program*>(self)->read_segments(*info);
          return 1;  // the first is the program itself
        },
        this);
  }

  bool holds(const std::byte* p) const { return p >= begin_ && p < end_; }
  std::byte* local_begin() const { return local_begin_; }
  std::size_t local_bytes() const { return local_bytes_; }
  /// The thread-local variable that byte `at` of the block belongs to; null for none.
  const Symbol* local(std::size_t at) const { return find(locals_, at); }

  const void* at(std::uint32_t offset) const { return base_ + offset; }
  std::uint32_t offset(const void* pc) const {
    return static_cast<std::uint32_t>(static_cast<const std::byte*>(pc) - base_);
  }
  std::string function(const void* address) const {
    const Symbol* s = find(functions_, offset(address));
    return s ? demangled(s->name) : "a kernel without a name";
  }
  /// As the linker knows it.
  std::string symbol(const void* address) const {
    const Symbol* s = find(functions_, offset(address));
    return s ? s->name : "";
  }
  static std::string demangled(const std::string& name) {
    char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, nullptr);
    std::string result = text ? text : name;
    std::free(text);
    return result;
  }
  /// "file:line" of the instruction before offset `pc`, and where that was inlined, by binutils' addr2line.
  std::string line(std::uint32_t pc) const {
    char command[128];
    std::snprintf(command, sizeof command, "addr2line -i -e /proc/%d/exe 0x%x 2>/dev/null", getpid(), pc - 1);
    std::string all;
    if (FILE* pipe = popen(command, "r")) {
      char text[512];
      for (int frames = 0; frames < 4 && std::fgets(text, sizeof text, pipe); ++frames) {
        std::string frame = text;
        frame.resize(frame.find_last_not_of("\n") + 1);
        if (const auto note = frame.find(" (discriminator"); note != std::string::npos) frame.resize(note);
        if (frame[0] == '?') continue;
        all += (all.empty() ? "" : ", inlined at ") + frame;
      }
      pclose(pipe);
    }
    return all.empty() ? "program + " + std::to_string(pc) : all;
  }

 private:
  void read_segments(const dl_phdr_info& info) {
    base_ = reinterpret_cast<std::byte*>(info.dlpi_addr);
    begin_ = end_ = nullptr;
    for (int i = 0; i < info.dlpi_phnum; ++i) {
      const auto& segment = info.dlpi_phdr[i];
      std::byte* const from = base_ + segment.p_vaddr;
      if (segment.p_type == PT_LOAD) {
        if (!begin_) begin_ = from;
        end_ = from + segment.p_memsz;
      } else if (segment.p_type == PT_TLS) {
        local_begin_ = static_cast<std::byte*>(info.dlpi_tls_data);
        local_bytes_ = segment.p_memsz;
      }
    }
  }
  void read_symbols() {
    const int file = open("/proc/self/exe", O_RDONLY);
    struct stat status {};
    if (file < 0 || fstat(file, &status) != 0) return;
    const auto bytes = static_cast<std::size_t>(status.st_size);
    void* const image = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (image == MAP_FAILED) return;
    const auto* const start = static_cast<const char*>(image);
    const auto* const header = reinterpret_cast<const Elf64_Ehdr*>(start);
    const auto* const sections = reinterpret_cast<const Elf64_Shdr*>(start + header->e_shoff);
    for (int i = 0; i < header->e_shnum; ++i) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      const auto* const symbols = reinterpret_cast<const Elf64_Sym*>(start + sections[i].sh_offset);
      const char* const names = start + sections[sections[i].sh_link].sh_offset;
      for (std::size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); ++k) {
        const int type = ELF64_ST_TYPE(symbols[k].st_info);
        if (symbols[k].st_size == 0) continue;
        Symbol symbol{symbols[k].st_value, symbols[k].st_size, names + symbols[k].st_name};
        if (type == STT_TLS) locals_.push_back(std::move(symbol));
        else if (type == STT_FUNC) functions_.push_back(std::move(symbol));
      }
    }
    munmap(image, bytes);
    const auto by_place = [](const Symbol& a, const Symbol& b) { return a.begin < b.begin; };
    std::sort(locals_.begin(), locals_.end(), by_place);
    std::sort(functions_.begin(), functions_.end(), by_place);
  }
  static const Symbol* find(const std::vector<Symbol>& symbols, std::uintptr_t at) {
    auto next = std::upper_bound(symbols.begin(), symbols.end(), at,
                                 [](std::uintptr_t place, const Symbol& s) { return place < s.begin; });
    if (next == symbols.begin()) return nullptr;
    --next;
    return at < next->begin + next->size ? &*next : nullptr;
  }

  static const char& here_of_thread() {
    static thread_local char mark = 0;
    return mark;
  }

  const char* here_ = nullptr;  // of the thread that the thread-local block is of
  std::byte *base_ = nullptr, *begin_ = nullptr, *end_ = nullptr, *local_begin_ = nullptr;
  std::size_t local_bytes_ = 0;
  std::vector<Symbol> locals_, functions_;
};

}  // namespace cuda_emulation
