// ops/gated_delta_rule.shared.hpp: the gated delta rule of one key head of one text, forward and backward, as both
// devices compute it: chunks of tokens in products of small matrices, which a Team of threads shares.
#pragma once
#include <ftlib/tensor/quantised.hpp>  // FTLIB_HD
#include <ftlib/tensor/view.hpp>       // View

#include <algorithm>  // std::max
#include <cmath>      // std::exp, std::log1p
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// Tokens [begin, end) of one text.
struct DeltaText {
  int64_t begin, end;
  int64_t chunk;        // how many chunks the texts before it have
  int64_t slot = 0;     // which of the states that are kept is its own
  int64_t goes_on = 0;  // 1: from that state; 0: from zeros
};

/// What gated_delta_rule is asked for. Tokens may have gaps between them, heads not.
template <Scalar T> struct DeltaRule {
  static constexpr int64_t chunk = 64;  // tokens
  View<const T> q, k, v, a, b;          // (N, KH, dk) twice, (N, H, dv), (N, H) twice
  View<const T> A_log, dt_bias;         // (H)
  std::vector<DeltaText> texts = {};

  int64_t longest() const {
    int64_t n = 1;
    for (const DeltaText& t : texts) n = std::max(n, t.end - t.begin);
    return std::min(n, chunk);
  }
};

namespace detail {

/// The same as kernels take it.
template <class T> struct DeltaPointers {
  const T *q, *k, *v, *a, *b, *A_log, *dt_bias;
  int64_t q_step, k_step, v_step, a_step, b_step, key_heads, heads, dk, dv;
  int64_t length;  // of the longest chunk

  explicit DeltaPointers(const DeltaRule<T>& of)
      : q(of.q.data),
        k(of.k.data),
        v(of.v.data),
        a(of.a.data),
        b(of.b.data),
        A_log(of.A_log.data),
        dt_bias(of.dt_bias.data),
        q_step(of.q.strides[0]),
        k_step(of.k.strides[0]),
        v_step(of.v.strides[0]),
        a_step(of.a.strides[0]),
        b_step(of.b.strides[0]),
        key_heads(of.q.shape[1]),
        heads(of.v.shape[1]),
        dk(of.q.shape[2]),
        dv(of.v.shape[2]),
        length(of.longest()) {}
  template <class Scratch, class A> FTLIB_HD void lay_out(Scratch& m, A* memory, int64_t pad, bool backward) const {
    m.lay_out(memory, pad, length, dk, dv, heads / key_heads, backward);
  }
};

/// Where gradients go; those that are null nobody wants.
template <class T> struct DeltaGradients {
  T *dq, *dk, *dv, *da, *db;  // as the inputs, without gaps
  accumulate_t<T>* sums;      // (texts, H, 2) each text's share of the gradients of A_log and dt_bias
};

/// The arrays of one task, in one block of memory: rows of P keys or W values or, along a chunk, X tokens, which are
/// dk, dv and the chunk's length up to what the Team's products fill.
template <class A> struct DeltaScratch {
  int64_t C, P, W, X, size;
  A *log_decay, *decayed, *rest, *beta;  // (C) of tokens: sum of log decays, e^that, e^(what is left of the chunk's)
  A *q, *k, *k_t, *decay, *kk, *qk;      // (C, P), (C, P), (dk, X), (C, X) three times
  A *r, *d, *o, *s;                      // (C, W) three times, (groups, dk, W) states
  // In backward alone:
  A *x, *y, *d_t, *s_t, *ds, *ds_t;               // (C, W) twice, (dv, X), (dv, P), (groups, dk, W), (dv, P)
  A *dkk, *dqk, *dq, *dk_as_query, *dk_as_key;    // (C, X) twice, (C, P) three times
  A *dq_sum, *dk_sum, *by_row, *by_state, *sums;  // (C, P) twice, (C), (dk), (groups, 2)

  /// Without memory it only counts. No constructor: a block of threads shares one.
  FTLIB_HD void lay_out(A* memory, int64_t pad, int64_t length, int64_t dk, int64_t dv, int64_t groups, bool backward) {
    C = length, P = up(dk, pad), W = up(dv, pad), X = up(length, pad), size = 0;
    log_decay = take(memory, C), decayed = take(memory, C), rest = take(memory, C), beta = take(memory, C);
    q = take(memory, C * P), k = take(memory, C * P);
    k_t = take(memory, dk * X);
    decay = take(memory, C * X), kk = take(memory, C * X), qk = take(memory, C * X);
    r = take(memory, C * W), d = take(memory, C * W), o = take(memory, C * W);
    s = take(memory, groups * dk * W);
    if (!backward) return;
    x = take(memory, C * W), y = take(memory, C * W);
    d_t = take(memory, dv * X);
    s_t = take(memory, dv * P), ds_t = take(memory, dv * P);
    ds = take(memory, groups * dk * W);
    dkk = take(memory, C * X), dqk = take(memory, C * X);
    dq = take(memory, C * P), dk_as_query = take(memory, C * P), dk_as_key = take(memory, C * P);
    dq_sum = take(memory, C * P), dk_sum = take(memory, C * P);
    by_row = take(memory, C);
    by_state = take(memory, dk);
    sums = take(memory, groups * 2);
  }

 private:
  FTLIB_HD static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
  FTLIB_HD A* take(A* memory, int64_t n) {
    A* const p = memory ? memory + size : nullptr;
    size += up(n, 16);
    return p;
  }
};

template <class A> FTLIB_HD A logistic(A x) { return 1 / (1 + std::exp(-x)); }
template <class A> FTLIB_HD A softplus(A x) { return x > 20 ? x : std::log1p(std::exp(x)); }  // as torch has it

/// One key head of one text. A Team's
///   each(n, f) and each(rows, cols, f)   call f(i), f(i, j) for all, in any order, and wait for one another;
///   product(c, c_step, a, a_row, a_col, b, b_step, rows, cols, depth, write)
///                                        c = or += a b: a's element (i, d) at a[i a_row + d a_col], rows of b and c as
///                                        long as whole panels of Team::pad columns;
///   wide(x) and narrow<T>(x)             convert.
///
/// In a chunk of tokens 1 ... n that begins with state S0, with G_i = g_1 + ... + g_i, M_ij = e^(G_i - G_j) k_i k_j for
/// j < i and P_ij = e^(G_i - G_j) q_i k_j for j <= i:
///   (I + diag(beta) M) D = diag(beta) (V - diag(e^G) K S0)
///   Y = diag(e^G) Q S0 + P D
///   S = e^G_n S0 + K^T diag(e^(G_n - G)) D                                       arXiv:2406.06484, 2412.06464
template <class T, class Team> struct DeltaHead {
  using A = accumulate_t<T>;
  const Team& team;
  const DeltaPointers<T>& of;
  const DeltaText& text;
  int64_t head, groups;  // the key head, and how many value heads it serves
  const DeltaScratch<A>& m;

  static constexpr int64_t solved_rows = 8;  // that are solved by themselves, between products

  FTLIB_HD DeltaHead(const Team& team_, const DeltaPointers<T>& of_, const DeltaText& text_, int64_t head_,
                     const DeltaScratch<A>& memory)
      : team(team_), of(of_), text(text_), head(head_), groups(of_.heads / of_.key_heads), m(memory) {}

  FTLIB_HD int64_t chunks() const { return (text.end - text.begin + DeltaRule<T>::chunk - 1) / DeltaRule<T>::chunk; }

  /// y (N, H, dv). `starts` (chunks, H, dk, dv) gets the state that each chunk begins with; `kept` (slots, H, dk, dv)
  /// is read and written. Both may be null.
  FTLIB_HD void forward(T* y, A* starts, A* kept) const {
    const int64_t dk = of.dk, dv = of.dv, W = m.W;
    A* const own = kept ? kept + (text.slot * of.heads + head * groups) * dk * dv : nullptr;
    team.each(groups * dk, W,
              [&](int64_t i, int64_t c) { m.s[i * W + c] = text.goes_on && c < dv ? own[i * dv + c] : A(0); });
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      const int64_t begin = text.begin + chunk * DeltaRule<T>::chunk, n = tokens(begin);
      if (starts) {
        A* const to = starts + ((text.chunk + chunk) * of.heads + head * groups) * dk * dv;
        team.each(groups * dk, dv, [&](int64_t i, int64_t c) { to[i * dv + c] = m.s[i * W + c]; });
      }
      load(begin, n);
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t h = head * groups + g;
        A* const s = m.s + g * dk * W;
        gate(begin, n, h);
        solve(begin, n, h, s);
        team.product(m.o, W, m.q, m.P, 1, s, W, n, dv, dk, Write::assign);
        team.each(n, dv, [&](int64_t i, int64_t c) { m.o[i * W + c] *= m.decayed[i]; });
        team.product(m.o, W, m.qk, m.X, 1, m.d, W, n, dv, n, Write::add);
        team.each(n, dv, [&](int64_t i, int64_t c) {
          y[((begin + i) * of.heads + h) * dv + c] = team.template narrow<T>(m.o[i * W + c]);
          m.d[i * W + c] *= m.rest[i];
        });
        const A all = m.decayed[n - 1];
        team.each(dk, dv, [&](int64_t i, int64_t c) { s[i * W + c] *= all; });
        team.product(s, W, m.k_t, m.X, 1, m.d, W, dk, dv, n, Write::add);
      }
    }
    if (own) team.each(groups * dk, dv, [&](int64_t i, int64_t c) { own[i * dv + c] = m.s[i * W + c]; });
  }

  /// From dy (N, H, dv) with a stride of tokens, and what forward() left in `starts`.
  ///   with X the solution of (I + diag(beta) M)^T X = P^T dY + diag(e^(G_n - G)) K dS, and Z = diag(beta) X:
  ///   dV = Z, dbeta_i = X_i (V - diag(e^G) K S0 - M D)_i, dM = -Z D^T, dP = dY D^T,
  ///   dS0 = e^G_n dS + Q^T diag(e^G) dY - K^T diag(e^G) Z.
  /// q_i, and k_i where it asks the state, stand beside e^G_i everywhere, and k_i where it is written beside e^-G_i: so
  /// dG_i is q_i dq_i + k_i (its share as the one) - k_i (its share as the other).
  FTLIB_HD void backward(const DeltaGradients<T>& to, const T* dy, int64_t dy_step, const A* starts,
                         int64_t number) const {
    const int64_t dk = of.dk, dv = of.dv, W = m.W, P = m.P, X = m.X;
    team.each(groups * dk, W, [&](int64_t i, int64_t c) { m.ds[i * W + c] = 0; });
    team.each(groups * 2, [&](int64_t i) { m.sums[i] = 0; });
    for (int64_t chunk = chunks() - 1; chunk >= 0; --chunk) {
      const int64_t begin = text.begin + chunk * DeltaRule<T>::chunk, n = tokens(begin);
      load(begin, n);
      team.each(n, P, [&](int64_t i, int64_t c) { m.dq_sum[i * P + c] = m.dk_sum[i * P + c] = 0; });
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t h = head * groups + g;
        A* const ds = m.ds + g * dk * W;
        const A* const from = starts + ((text.chunk + chunk) * of.heads + h) * dk * dv;
        team.each(dk, dv, [&](int64_t i, int64_t c) {
          m.s[i * W + c] = m.s_t[c * P + i] = from[i * dv + c];
          m.ds_t[c * P + i] = ds[i * W + c];
        });
        gate(begin, n, h);
        solve(begin, n, h, m.s);
        team.each(n, dv, [&](int64_t i, int64_t c) {
          m.o[i * W + c] = team.wide(dy[(begin + i) * dy_step + h * dv + c]);
          m.d_t[c * X + i] = m.d[i * W + c];
        });
        team.product(m.x, W, m.k, P, 1, ds, W, n, dv, dk, Write::assign);
        team.each(n, dv, [&](int64_t i, int64_t c) { m.x[i * W + c] *= m.rest[i]; });
        team.product(m.x, W, m.qk, 1, X, m.o, W, n, dv, n, Write::add);
        solve_transposed(n);
        if (to.dv)
          team.each(n, dv, [&](int64_t i, int64_t c) {
            to.dv[((begin + i) * of.heads + h) * dv + c] = team.template narrow<T>(m.y[i * W + c]);
          });

        team.product(m.dkk, X, m.y, W, 1, m.d_t, X, n, n, dv, Write::assign);
        team.product(m.dqk, X, m.o, W, 1, m.d_t, X, n, n, dv, Write::assign);
        team.each(n, n, [&](int64_t i, int64_t j) {
          m.dkk[i * X + j] = j < i ? -m.decay[i * X + j] * m.dkk[i * X + j] : A(0);
          m.dqk[i * X + j] = j <= i ? m.decay[i * X + j] * m.dqk[i * X + j] : A(0);
        });
        team.product(m.dq, P, m.o, W, 1, m.s_t, P, n, dk, dv, Write::assign);
        team.product(m.dk_as_query, P, m.y, W, 1, m.s_t, P, n, dk, dv, Write::assign);
        team.product(m.dk_as_key, P, m.d, W, 1, m.ds_t, P, n, dk, dv, Write::assign);
        team.each(n, dk, [&](int64_t i, int64_t c) {
          m.dq[i * P + c] *= m.decayed[i];
          m.dk_as_query[i * P + c] *= -m.decayed[i];
          m.dk_as_key[i * P + c] *= m.rest[i];
        });
        team.each(n, [&](int64_t i) { m.by_row[i] = dot(m.k + i * P, m.dk_as_key + i * P, dk); });
        team.each(dk, [&](int64_t i) { m.by_state[i] = dot(m.s + i * W, ds + i * W, dv); });
        team.product(m.dq, P, m.dqk, X, 1, m.k, P, n, dk, n, Write::add);
        team.product(m.dk_as_query, P, m.dkk, X, 1, m.k, P, n, dk, n, Write::add);
        team.product(m.dk_as_key, P, m.dkk, 1, X, m.k, P, n, dk, n, Write::add);
        team.product(m.dk_as_key, P, m.dqk, 1, X, m.q, P, n, dk, n, Write::add);
        gate_backward(to, begin, n, h, g);
        const A all = m.decayed[n - 1];
        team.each(n, dk, [&](int64_t i, int64_t c) {
          m.dq_sum[i * P + c] += m.dq[i * P + c];
          m.dk_sum[i * P + c] += m.dk_as_query[i * P + c] + m.dk_as_key[i * P + c];
        });
        team.each(n, dv, [&](int64_t i, int64_t c) {
          m.o[i * W + c] *= m.decayed[i];
          m.y[i * W + c] *= -m.decayed[i];
        });
        team.each(dk, dv, [&](int64_t i, int64_t c) { ds[i * W + c] *= all; });
        team.product(ds, W, m.q, 1, P, m.o, W, dk, dv, n, Write::add);
        team.product(ds, W, m.k, 1, P, m.y, W, dk, dv, n, Write::add);
      }
      team.each(n, dk, [&](int64_t i, int64_t c) {
        const int64_t at = ((begin + i) * of.key_heads + head) * dk + c;
        if (to.dq) to.dq[at] = team.template narrow<T>(m.dq_sum[i * P + c]);
        if (to.dk) to.dk[at] = team.template narrow<T>(m.dk_sum[i * P + c]);
      });
    }
    if (to.sums)
      team.each(groups * 2, [&](int64_t i) { to.sums[(number * of.heads + head * groups) * 2 + i] = m.sums[i]; });
  }

 private:
  FTLIB_HD int64_t tokens(int64_t begin) const {
    const int64_t left = text.end - begin;
    return left < DeltaRule<T>::chunk ? left : DeltaRule<T>::chunk;
  }
  FTLIB_HD static A dot(const A* a, const A* b, int64_t n) {
    A sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  }
  FTLIB_HD void load(int64_t begin, int64_t n) const {
    team.each(n, of.dk, [&](int64_t i, int64_t c) {
      m.q[i * m.P + c] = team.wide(of.q[(begin + i) * of.q_step + head * of.dk + c]);
      m.k[i * m.P + c] = m.k_t[c * m.X + i] = team.wide(of.k[(begin + i) * of.k_step + head * of.dk + c]);
    });
  }
  /// log_decay is G, decayed e^G, rest e^(G_n - G), decay_ij e^(G_i - G_j); kk is -M, qk is P.
  FTLIB_HD void gate(int64_t begin, int64_t n, int64_t h) const {
    const A rate = -std::exp(team.wide(of.A_log[h])), bias = team.wide(of.dt_bias[h]);
    const int64_t X = m.X;
    team.each(n, [&](int64_t i) {
      m.log_decay[i] = rate * softplus(team.wide(of.a[(begin + i) * of.a_step + h]) + bias);
      m.beta[i] = logistic(team.wide(of.b[(begin + i) * of.b_step + h]));
    });
    team.each(1, [&](int64_t) {
      for (int64_t i = 1; i < n; ++i) m.log_decay[i] += m.log_decay[i - 1];
    });
    team.product(m.kk, X, m.k, m.P, 1, m.k_t, X, n, n, of.dk, Write::assign);
    team.product(m.qk, X, m.q, m.P, 1, m.k_t, X, n, n, of.dk, Write::assign);
    team.each(n, [&](int64_t i) {
      m.decayed[i] = std::exp(m.log_decay[i]);
      m.rest[i] = std::exp(m.log_decay[n - 1] - m.log_decay[i]);
    });
    team.each(n, n, [&](int64_t i, int64_t j) {
      const A decay = j <= i ? std::exp(m.log_decay[i] - m.log_decay[j]) : A(0);
      m.decay[i * X + j] = decay;
      m.kk[i * X + j] = j < i ? -decay * m.kk[i * X + j] : A(0);
      m.qk[i * X + j] = j <= i ? decay * m.qk[i * X + j] : A(0);
    });
  }
  /// r = V - diag(e^G) K S0 - M D and d = diag(beta) r, by forward substitution.
  FTLIB_HD void solve(int64_t begin, int64_t n, int64_t h, const A* s) const {
    const int64_t dv = of.dv, W = m.W, X = m.X;
    team.product(m.r, W, m.k, m.P, 1, s, W, n, dv, of.dk, Write::assign);
    team.each(n, dv, [&](int64_t i, int64_t c) {
      const A v = team.wide(of.v[(begin + i) * of.v_step + h * dv + c]);
      m.r[i * W + c] = v - m.decayed[i] * m.r[i * W + c];
    });
    for (int64_t first = 0; first < n; first += solved_rows) {
      const int64_t last = first + solved_rows < n ? first + solved_rows : n;
      if (first) team.product(m.r + first * W, W, m.kk + first * X, X, 1, m.d, W, last - first, dv, first, Write::add);
      team.each(dv, [&](int64_t c) {
        for (int64_t i = first; i < last; ++i) {
          A r = m.r[i * W + c];
          for (int64_t j = first; j < i; ++j) r += m.kk[i * X + j] * m.d[j * W + c];
          m.r[i * W + c] = r;
          m.d[i * W + c] = m.beta[i] * r;
        }
      });
    }
  }
  /// x becomes X, and y Z, by backward substitution.
  FTLIB_HD void solve_transposed(int64_t n) const {
    const int64_t dv = of.dv, W = m.W, X = m.X;
    for (int64_t first = (n - 1) / solved_rows * solved_rows; first >= 0; first -= solved_rows) {
      const int64_t last = first + solved_rows < n ? first + solved_rows : n;
      if (last < n)
        team.product(m.x + first * W, W, m.kk + last * X + first, 1, X, m.y + last * W, W, last - first, dv, n - last,
                     Write::add);
      team.each(dv, [&](int64_t c) {
        for (int64_t i = last - 1; i >= first; --i) {
          A x = m.x[i * W + c];
          for (int64_t j = i + 1; j < last; ++j) x += m.kk[j * X + i] * m.y[j * W + c];
          m.x[i * W + c] = x;
          m.y[i * W + c] = m.beta[i] * x;
        }
      });
    }
  }
  FTLIB_HD void gate_backward(const DeltaGradients<T>& to, int64_t begin, int64_t n, int64_t h, int64_t g) const {
    const int64_t P = m.P, W = m.W;
    const A rate = -std::exp(team.wide(of.A_log[h])), bias = team.wide(of.dt_bias[h]);
    team.each(1, [&](int64_t) {  // dG of the chunk's last token, by the state that it leaves
      A sum = 0, states = 0;
      for (int64_t i = 0; i < n; ++i) sum += m.by_row[i];
      for (int64_t i = 0; i < of.dk; ++i) states += m.by_state[i];
      m.by_state[0] = sum + m.decayed[n - 1] * states;
    });
    team.each(n, [&](int64_t i) {
      const A *const q = m.q + i * P, *const k = m.k + i * P;
      m.by_row[i] = dot(q, m.dq + i * P, of.dk) + dot(k, m.dk_as_query + i * P, of.dk) -
                    dot(k, m.dk_as_key + i * P, of.dk) + (i == n - 1 ? m.by_state[0] : A(0));
      if (!to.db) return;
      const A dbeta = dot(m.x + i * W, m.r + i * W, of.dv);
      to.db[(begin + i) * of.heads + h] = team.template narrow<T>(dbeta * m.beta[i] * (1 - m.beta[i]));
    });
    team.each(1, [&](int64_t) {
      A dg = 0, da_sum = 0, dlog_sum = 0;
      for (int64_t i = n - 1; i >= 0; --i) {
        dg += m.by_row[i];
        const A x = team.wide(of.a[(begin + i) * of.a_step + h]) + bias, da = dg * rate * logistic(x);
        if (to.da) to.da[(begin + i) * of.heads + h] = team.template narrow<T>(da);
        da_sum += da;
        dlog_sum += dg * rate * softplus(x);
      }
      m.sums[2 * g] += dlog_sum;
      m.sums[2 * g + 1] += da_sum;
    });
  }
};

}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
