// benchmarks/gemm.cpp: the matrix product at the shapes that SmolLM2 and Gemma 3 train with, beside OpenBLAS and Eigen.
//
//   bench_gemm                       Google Benchmark's table: GFLOP/s for each library, shape, and number of threads
//   bench_gemm --ratio [SECONDS]     ours over OpenBLAS, in turns of 40 ms, the best of each; and the geometric
//   mean
#include <ftlib/ops/gemm.cpu.hpp>
#include <ftlib/tensor/quantise.hpp>

#include <benchmark/benchmark.h>
#include <cblas.h>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <Eigen/Core>
#include <map>
#include <thread>

using namespace ft;

namespace {

/// Y (N, out) = X W^T; dX (N, in) = dY W; dW (out, in) = dY^T X.
enum class Product { forward, input_gradient, weight_gradient };
enum class Library { ours, ours_q4_1, openblas, eigen };

struct Shapes {
  int64_t tokens, in, out;
};

struct Operands {
  std::vector<float> x, w, dy, result;
  std::vector<std::byte> q4_1;  // w in Q4_1

  explicit Operands(const Shapes& s)
      : x(size(s.tokens * s.in)),
        w(size(s.out * s.in)),
        dy(size(s.tokens * s.out)),
        result(size(std::max({s.tokens * s.out, s.tokens * s.in, s.out * s.in}))) {
    Random random(1);
    for (auto* v : {&x, &w, &dy})
      for (float& f : *v) f = static_cast<float>(random.uniform() - 0.5);
    q4_1.resize(size(storage_bytes(DType::q4_1, s.out * s.in)));
    for (int64_t row = 0; row < s.out; ++row)
      quantise_row(DType::q4_1, w.data() + row * s.in, s.in, q4_1.data() + storage_bytes(DType::q4_1, row * s.in));
  }
  static std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }
};

void multiply(Context<Cpu>& ctx, Library library, Product product, const Shapes& s, Operands& o) {
  const auto [N, in, out] = s;
  const bool forward = product == Product::forward, to_input = product == Product::input_gradient;
  float* c = o.result.data();
  if (library == Library::ours_q4_1 && product != Product::weight_gradient) {
    const StoredOperand w{DType::q4_1, o.q4_1.data(), out, in, forward ? Transpose::yes : Transpose::no};
    if (forward) gemm(ctx, Write::assign, N, out, in, c, out, DenseOperand<float>{o.x.data(), in, 1}, w);
    else gemm(ctx, Write::assign, N, in, out, c, in, DenseOperand<float>{o.dy.data(), out, 1}, w);
  } else if (library == Library::ours || library == Library::ours_q4_1) {
    if (forward)
      gemm(ctx, Write::assign, N, out, in, c, out, DenseOperand<float>{o.x.data(), in, 1},
           DenseOperand<float>{o.w.data(), 1, in});
    else if (to_input)
      gemm(ctx, Write::assign, N, in, out, c, in, DenseOperand<float>{o.dy.data(), out, 1},
           DenseOperand<float>{o.w.data(), in, 1});
    else
      gemm(ctx, Write::assign, out, in, N, c, in, DenseOperand<float>{o.dy.data(), 1, out},
           DenseOperand<float>{o.x.data(), in, 1});
  } else if (library == Library::openblas) {
    const auto i = [](int64_t n) { return static_cast<int>(n); };
    if (forward)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, i(N), i(out), i(in), 1, o.x.data(), i(in), o.w.data(), i(in),
                  0, c, i(out));
    else if (to_input)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, i(N), i(in), i(out), 1, o.dy.data(), i(out), o.w.data(),
                  i(in), 0, c, i(in));
    else
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, i(out), i(in), i(N), 1, o.dy.data(), i(out), o.x.data(),
                  i(in), 0, c, i(in));
  } else {
    using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Map<const Matrix> x(o.x.data(), N, in), w(o.w.data(), out, in), dy(o.dy.data(), N, out);
    if (forward) Eigen::Map<Matrix>(c, N, out).noalias() = x * w.transpose();
    else if (to_input) Eigen::Map<Matrix>(c, N, in).noalias() = dy * w;
    else Eigen::Map<Matrix>(c, out, in).noalias() = dy.transpose() * x;
  }
}

double flops(const Shapes& s) { return 2.0 * static_cast<double>(s.tokens * s.in * s.out); }

/// A fast wrong answer is no result. Q4_1 is held against the product with the values it stores.
void check(Context<Cpu>& ctx, Library library, Product product, const Shapes& s, Operands& o) {
  multiply(ctx, library, product, s, o);
  const int64_t rows = product == Product::weight_gradient ? s.out : s.tokens,
                cols = product == Product::forward ? s.out : s.in;
  std::vector<float> w(o.w.size());
  if (library == Library::ours_q4_1)
    for (int64_t r = 0; r < s.out; ++r)
      dequantise_row(DType::q4_1, o.q4_1.data() + storage_bytes(DType::q4_1, r * s.in), 0, s.in, w.data() + r * s.in);
  else w = o.w;
  Random random(2);
  for (int probe = 0; probe < 64; ++probe) {
    const int64_t r = random.below(rows), c = random.below(cols);
    double sum = 0, size = 0;
    const auto add = [&](float a, float b) {
      sum += double{a} * double{b};
      size += std::abs(double{a} * double{b});
    };
    const auto at = [](const std::vector<float>& v, int64_t i) { return v[static_cast<std::size_t>(i)]; };
    if (product == Product::forward)
      for (int64_t k = 0; k < s.in; ++k) add(at(o.x, r * s.in + k), at(w, c * s.in + k));
    else if (product == Product::input_gradient)
      for (int64_t k = 0; k < s.out; ++k) add(at(o.dy, r * s.out + k), at(w, k * s.in + c));
    else
      for (int64_t k = 0; k < s.tokens; ++k) add(at(o.dy, k * s.out + r), at(o.x, k * s.in + c));
    if (std::abs(sum - double{at(o.result, r * cols + c)}) > 1e-5 * size) {
      std::fprintf(stderr, "bench_gemm: a wrong result\n");
      std::exit(1);
    }
  }
}

std::vector<Shapes> shapes() {
  std::vector<Shapes> all;
  for (const int64_t tokens : {256, 512, 1024})
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{{576, 576},
                                                                          {576, 192},
                                                                          {576, 1536},
                                                                          {1536, 576},  // SmolLM2-135M
                                                                          {640, 1024},
                                                                          {640, 256},
                                                                          {1024, 640},
                                                                          {640, 2048},
                                                                          {2048, 640}})  // Gemma 3 270M
      all.push_back({tokens, in, out});
  all.push_back({2048, 2048, 2048});
  return all;
}
const std::map<Product, const char*> product_names{
    {Product::forward, "x W^T"}, {Product::input_gradient, "dy W"}, {Product::weight_gradient, "dy^T x"}};
const std::map<Library, const char*> library_names{{Library::ours, "ftlib"},
                                                   {Library::ours_q4_1, "ftlib Q4_1"},
                                                   {Library::openblas, "OpenBLAS"},
                                                   {Library::eigen, "Eigen"}};

int ratio(double seconds) {
  std::printf("%-7s %5s %5s %5s  %7s   %9s  %9s  %5s\n", "product", "N", "in", "out", "threads", "ours GF/s",
              "OpenBLAS", "ratio");
  for (const int threads : {1, 2}) {
    double logs = 0;
    int rows = 0;
    Context<Cpu> ctx({.threads = threads});
    openblas_set_num_threads(threads);
    for (const Shapes& s : shapes())
      for (const auto& [product, name] : product_names) {
        Operands o(s);
        double best[2] = {1e9, 1e9}, spent = 0;
        check(ctx, Library::ours, product, s, o);
        while (spent < seconds)
          for (const Library library : {Library::ours, Library::openblas}) {
            double turn = 0;
            while (turn < 0.04) {  // the first calls wake threads, and the system has yet to part them among cores
              const auto begin = std::chrono::steady_clock::now();
              multiply(ctx, library, product, s, o);
              const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
              best[library == Library::openblas] = std::min(best[library == Library::openblas], took);
              turn += took;
            }
            spent += turn;
            // Threads that have nothing to do spin for a while: OpenBLAS's would take a core from ours.
            if (threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
          }
        std::printf("%-7s %5ld %5ld %5ld  %7d   %9.1f  %9.1f  %5.2f\n", name, static_cast<long>(s.tokens),
                    static_cast<long>(s.in), static_cast<long>(s.out), threads, flops(s) / best[0] * 1e-9,
                    flops(s) / best[1] * 1e-9, best[1] / best[0]);
        logs += std::log(best[1] / best[0]);
        ++rows;
      }
    std::printf("%d thread%s: geometric mean of ours / OpenBLAS: %.3f\n", threads, threads > 1 ? "s" : "",
                std::exp(logs / rows));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--ratio") == 0) return ratio(argc > 2 ? std::atof(argv[2]) : 0.3);
  for (const int threads : {1, 2})
    for (const Shapes& s : shapes())
      for (const auto& [product, product_name] : product_names)
        for (const auto& [library, library_name] : library_names) {
          if (library == Library::eigen && threads > 1) continue;  // built without OpenMP
          if (library == Library::ours_q4_1 && product == Product::weight_gradient) continue;
          const auto name =
              str(product_name, '/', s.tokens, '/', s.in, '/', s.out, '/', library_name, "/threads:", threads);
          benchmark::RegisterBenchmark(name.c_str(), [=, kind = library, what = product](benchmark::State& state) {
            Context<Cpu> ctx({.threads = threads});
            openblas_set_num_threads(threads);
            Operands o(s);
            check(ctx, kind, what, s, o);
            for (auto _ : state) multiply(ctx, kind, what, s, o);
            state.counters["GFLOP/s"] = benchmark::Counter(flops(s) * static_cast<double>(state.iterations()) * 1e-9,
                                                           benchmark::Counter::kIsRate);
          })->UseRealTime();
        }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
