// The passes of docs/theory.md for one instruction set (compiled once for each).
//
// The lanes of a vector are atoms of one species. Every pass is written once for a number type T: a
// vector, or a dual number of two vectors that carries the derivative along the call's tangent direction.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>
#include <type_traits>
#include <utility>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "plan.h"

#if defined(__AVX512F__)
#define MTP_BYTES 64
#elif defined(__AVX__)
#define MTP_BYTES 32
#else
#define MTP_BYTES 16
#endif
#define UNROLL _Pragma("GCC unroll 16")
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) \
  __builtin_shuffle(a, b, (int64_t __attribute__((vector_size(32)))){i, j, k, l})
#endif

namespace mtp {
namespace MTP_ISA {

constexpr int kSlots = 4;  // neighbour slots handled together, so that moments are loaded once for all
constexpr int kWindow = 1024;  // atoms among which lanes are matched by species and neighbour count

template <class S>
struct Lanes {
  typedef S Vector __attribute__((vector_size(MTP_BYTES)));
  static constexpr int n = MTP_BYTES / sizeof(S);
};

// --- dual numbers -----------------------------------------------------------------------------------

template <class V>
struct Dual {
  V v, d;
};
template <class V> inline Dual<V> operator+(Dual<V> a, Dual<V> b) { return {a.v + b.v, a.d + b.d}; }
template <class V> inline Dual<V> operator-(Dual<V> a, Dual<V> b) { return {a.v - b.v, a.d - b.d}; }
template <class V> inline Dual<V> operator*(Dual<V> a, Dual<V> b) {
  return {a.v * b.v, a.v * b.d + a.d * b.v};
}
template <class V> inline Dual<V>& operator+=(Dual<V>& a, Dual<V> b) { a.v += b.v; a.d += b.d; return a; }

template <class V> inline V value(V a) { return a; }
template <class V> inline V value(Dual<V> a) { return a.v; }

template <class V, class S> inline V times(V a, S s) { return a * s; }
template <class V, class S> inline Dual<V> times(Dual<V> a, S s) { return {a.v * s, a.d * s}; }

template <class V> inline V square_root(V a) {
  V r;
  for (unsigned l = 0; l < sizeof(V) / sizeof(a[0]); l++) r[l] = std::sqrt(a[l]);
  return r;
}
// The square root and its inverse, with one division.
template <class V> inline void root_and_inverse(V a, V& root, V& inverse) {
  root = square_root(a);
  inverse = 1 / root;
}
template <class V> inline void root_and_inverse(Dual<V> a, Dual<V>& root, Dual<V>& inverse) {
  root_and_inverse(a.v, root.v, inverse.v);
  root.d = a.d * inverse.v / 2;
  inverse.d = -root.d * inverse.v * inverse.v;
}
template <class V> inline V broadcast(V like, double x) { return (like - like) + static_cast<decltype(like[0] + 0)>(x); }

// exp for |x| ≤ 80 to the last digits: 2^n times a polynomial.
inline Lanes<double>::Vector exponential(Lanes<double>::Vector x) {
  typedef int64_t I __attribute__((vector_size(MTP_BYTES)));
  const double magic = 6755399441055744.0;  // 1.5 · 2^52: rounds to an integer in the low bits
  auto t = x * 1.4426950408889634 + magic;
  auto n = t - magic;
  auto r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  auto p = r * (1 / 6227020800.0) + 1 / 479001600.0;
  const double c[] = {1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0, 1 / 720.0,
                      1 / 120.0, 1 / 24.0, 1 / 6.0, 0.5, 1.0, 1.0};
  for (double k : c) p = p * r + k;
  return reinterpret_cast<Lanes<double>::Vector>(reinterpret_cast<I>(p) + (reinterpret_cast<I>(t) << 52));
}
inline Lanes<float>::Vector exponential(Lanes<float>::Vector x) {
  typedef int32_t I __attribute__((vector_size(MTP_BYTES)));
  const float magic = 12582912.0f;  // 1.5 · 2^23
  auto t = x * 1.44269504f + magic;
  auto n = t - magic;
  auto r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  auto p = r * (1 / 5040.0f) + 1 / 720.0f;
  const float c[] = {1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
  for (float k : c) p = p * r + k;
  return reinterpret_cast<Lanes<float>::Vector>(reinterpret_cast<I>(p) + (reinterpret_cast<I>(t) << 23));
}
template <class V> inline V magnitude(V x, double limit) {  // |x|, at most the limit; NaN stays NaN
  typedef decltype(x[0] + 0) S;
  V size = x < 0 ? -x : x;
  return size > S(limit) ? V{} + S(limit) : size;
}
template <class V> inline V hyperbolic_tangent(V x) {
  V size = magnitude(x, 20);
  V t = 1 - 2 / (exponential(size + size) + 1);
  return x < 0 ? -t : t;
}
template <class V> inline V logistic(V x) {
  V small = exponential(-magnitude(x, 80)), large = 1 / (1 + small);
  return x < 0 ? small * large : large;
}
// log(1 + u) for 0 ≤ u ≤ 1 by the series of 2 artanh(u / (2 + u)).
template <class V> inline V log_one_plus(V u) {
  typedef decltype(u[0] + 0) S;
  constexpr int terms = sizeof(S) == 8 ? 18 : 8;
  V s = u / (2 + u), square = s * s, sum = V{};
  for (int k = terms - 1; k >= 0; k--) sum = sum * square + S(1.0 / (2 * k + 1));
  return 2 * s * sum;
}

// Activations: value, first and second derivative of a number.

template <class V>
struct Curve {
  V value, first, second;
};
struct Tanh {
  template <class V> static Curve<V> of(V x) {
    V t = hyperbolic_tangent(x), slope = 1 - t * t;
    return {t, slope, -2 * t * slope};
  }
};
struct Sigmoid {
  template <class V> static Curve<V> of(V x) {
    V s = logistic(x), slope = s * (1 - s);
    return {s, slope, slope * (1 - 2 * s)};
  }
};
struct Silu {
  template <class V> static Curve<V> of(V x) {
    V s = logistic(x), slope = s * (1 - s);
    return {x * s, s + x * slope, slope * (2 + x * (1 - 2 * s))};
  }
};
struct Softplus {
  template <class V> static Curve<V> of(V x) {
    V s = logistic(x), above = x > 0 ? x : x - x;
    return {above + log_one_plus(exponential(-magnitude(x, 80))), s, s * (1 - s)};
  }
};
struct Gelu {  // x/2·(1 + tanh(√(2/π)·(x + 0.044715 x³)))
  template <class V> static Curve<V> of(V x) {
    typedef decltype(x[0] + 0) S;
    const S k = S(0.79788456080286535588), a = S(0.044715);
    V square = x * x, t = hyperbolic_tangent(k * x * (1 + a * square));
    V u_first = k * (1 + 3 * a * square), u_second = 6 * k * a * x;
    V slope = 1 - t * t, half = x / 2;
    return {half * (1 + t), (1 + t) / 2 + half * slope * u_first,
            slope * u_first + half * slope * (u_second - 2 * t * u_first * u_first)};
  }
};

// --- extrapolation grades ----------------------------------------------------------------------------

// max_j |Σ_i x[i]·columns[j, i]| in every lane; several columns at once, so that x is loaded once for them.
template <class V, class S>
inline V largest_coefficient(const V* x, const S* columns, int64_t n) {
  constexpr int kAtOnce = 8;
  V largest = V{};
  auto take = [&](V sum) {
    const V size = sum < 0 ? -sum : sum;
    largest = size <= largest ? largest : size;  // NaN stays NaN
  };
  int64_t j = 0;
  for (; j + kAtOnce <= n; j += kAtOnce) {
    V sum[kAtOnce];
    const S* from = columns + j * n;
    UNROLL for (int k = 0; k < kAtOnce; k++) sum[k] = V{};
    for (int64_t i = 0; i < n; i++) {
      const V value = x[i];
      UNROLL for (int k = 0; k < kAtOnce; k++) sum[k] += value * from[k * n + i];
    }
    for (int k = 0; k < kAtOnce; k++) take(sum[k]);
  }
  for (; j < n; j++) {
    V sum = V{};
    for (int64_t i = 0; i < n; i++) sum += x[i] * columns[j * n + i];
    take(sum);
  }
  return largest;
}

// --- transposition ----------------------------------------------------------------------------------

// Lanes of a and b side by side: with the bit h of l not set lane l of the result is lane l + shift of a,
// else lane l + shift − h of b.
template <int h, int shift, class V>
inline V interleave(V a, V b) {
  constexpr int W = sizeof(V) / sizeof(a[0]);
#if defined(__clang__)
  V out;
  for (int l = 0; l < W; l++) out[l] = l & h ? b[l + shift - h] : a[l + shift];
  return out;
#else
  typedef std::conditional_t<sizeof(a[0]) == 8, int64_t, int32_t> I;
  typedef I Index __attribute__((vector_size(sizeof(V))));
  Index from = Index{};
  UNROLL for (int l = 0; l < W; l++) from[l] = l & h ? W + l + shift - h : l + shift;
  return __builtin_shuffle(a, b, from);
#endif
}

// Rows of a square of numbers become its columns.
template <int h, class V>
inline void exchange_from(V* rows) {
  constexpr int W = sizeof(V) / sizeof(rows[0][0]);
  UNROLL for (int i = 0; i < W; i++) {
    if (i & h) continue;
    const V a = rows[i], b = rows[i + h];
    rows[i] = interleave<h, 0>(a, b);
    rows[i + h] = interleave<h, h>(a, b);
  }
  if constexpr (h > 1) exchange_from<h / 2>(rows);
}
template <class V>
inline void exchange(V* rows) {
  exchange_from<sizeof(V) / sizeof(rows[0][0]) / 2>(rows);
}

// --- one block of atoms -----------------------------------------------------------------------------

template <class V>
class Buffer {  // aligned, not initialised; grows only, and what was in it is lost then
 public:
  V* get(size_t n) {
    if (n > size_) {
      release();
      data_ = static_cast<V*>(::operator new(n * sizeof(V), std::align_val_t(64)));
      size_ = n;
    }
    return data_;
  }
  const V* there() const { return data_; }  // what `get` gave last, or null
  ~Buffer() { release(); }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
    size_ = 0;
  }
  V* data_ = nullptr;
  size_t size_ = 0;
};

template <class S, class T>
class Pass {
  using V = typename Lanes<S>::Vector;
  static constexpr int W = Lanes<S>::n;
  static constexpr bool kDual = !std::is_same<T, V>::value;

 public:
  // Where this thread adds to: forces (n_all, 4), c_bar, weights_bar, and the forces of each invariant
  // (n_all, 3, padded to vectors).
  Pass(const Work& work, double* forces, double* c_bar, double* weights_bar, double* column_forces)
      : w(work), job(work.job), p(*work.plan), forces_(forces), c_bar_(c_bar), weights_bar_(weights_bar),
        column_forces_(column_forces) {
    n_species = static_cast<int>(job.n_species);
    radial_size = p.n_radial * p.n_q;
    m = moments_.get(p.n_rows);
    g = moment_slopes_.get(p.n_rows);
    slopes = slopes_.get(p.n_slopes + 1);
    monomials = monomial_.get(size_t(p.n_monomials) * kSlots);
    by_radial = radial_.get(size_t(p.n_radial) * kSlots);
    q_slope = q_.get(size_t(p.n_q) * kSlots);
    passing = passing_.get(size_t(1 + 2 * p.n_radial + p.n_q) * kSlots);
    with_slopes = forces_ || column_forces_ || job.d_bar;
    keep_rows = job.d_bar || job.d_dot;
    keep_neighbours = forces_ || column_forces_ || job.v;
    if (column_forces_) slopes = slopes_.get(size_t(p.n_slopes) * W);
    if (c_bar_) {
      sums = sums_.get(size_t(n_species) * radial_size);
      for (int i = 0; i < n_species * radial_size; i++) sums[i] = V{};
    }
    first_.resize(n_species + 1);
    touched_.assign(n_species, 0);
    if (!w.readout) return;
    const size_t n = w.readout->weights.size();
    weights = weights_.get(n);
    for (size_t i = 0; i < n; i++) weights[i] = S(w.readout->weights[i]);
    if (!weights_bar_) return;
    weight_sums = weight_sums_.get(n);
    for (size_t i = 0; i < n; i++) weight_sums[i] = V{};
  }

  ~Pass() { flush_weights(); }

  // What `load` of these atoms will read of a batch, so that it arrives while others are computed. Inline,
  // because GCC takes a function that only prefetches for one without effect.
  __attribute__((always_inline)) void fetch(const int32_t* atoms, int n) const {
    if (w.positions) return;
    for (int l = 0; l < n; l++) {
      const int64_t start = job.start[atoms[l]], count = job.count[atoms[l]];
      if (count < 0 || start < 0 || start > job.n_rows - count) continue;
      const char* list = reinterpret_cast<const char*>(job.neighbour + start);
      for (int64_t at = 0; at < 4 * count; at += 64) __builtin_prefetch(list + at);
      const char* x = static_cast<const char*>(job.displacement) + 3 * sizeof(S) * start;
      for (int64_t at = 0; at < int64_t(3 * sizeof(S)) * count; at += 64) __builtin_prefetch(x + at);
    }
  }

  // Atoms of one species; false if some index is out of range.
  bool run(const int32_t* atoms, int n) {
    n_lanes = n;
    for (int l = 0; l < W; l++) atom[l] = atoms[l < n ? l : 0];
    species = job.species[atom[0]];
    if (!load()) return false;
    for (int r = 0; r < p.n_core; r++) m[r] = T{};
    for (int slot = 0; slot < n_slots; slot += kSlots) {
      if (with_slopes) pair_functions<true>(slot);
      else pair_functions<false>(slot);
      moments();
    }
    for (const Trace& t : p.traces) m[t.row] = m[t.from[0]] + m[t.from[1]] + m[t.from[2]];
    contract(p.forward, m, m, m, false);
    write_invariants();
    if (w.tensors) {
      sum_tensors();
      return true;
    }
    if (w.grades) write_grades();
    if constexpr (!kDual)
      if (column_forces_) columns();
    bool reverse = job.b_bar || job.b_dot_bar || w.readout;
    if (!reverse) return true;
    seed();
    contract(p.reverse, g, m, g, true);
    for (size_t t = p.traces.size(); t-- > 0;)
      for (int k : p.traces[t].from) g[k] += g[p.traces[t].row];
    if (forces_ || job.d_bar) pull();
    if (c_bar_) coefficient_gradient();
    if (weight_sums && ++unflushed == 16) flush_weights();
    return true;
  }

 private:
  const Work& w;
  const mtp_job& job;
  const Plan& p;
  double *forces_, *c_bar_, *weights_bar_, *column_forces_;
  int n_lanes = 0, n_slots = 0, species = 0, n_species = 0, radial_size = 0;
  int32_t atom[W];
  Buffer<T> moments_, moment_slopes_, slopes_, monomial_, radial_, q_, scratch_, pairs_, passing_;
  Buffer<V> displacement_, tangent_, sums_, weight_sums_;
  Buffer<T> layer_;
  Buffer<S> weights_;
  Buffer<int32_t> neighbour_, neighbour_species_, uniform_;
  Buffer<int64_t> row_, lane_row_;
  Buffer<S> lane_x_, lane_x_sorted_;
  Buffer<int32_t> lane_list_, lane_list_sorted_, lane_species_, lane_sorted_;
  std::vector<int> first_;
  std::vector<char> touched_;  // species of neighbours seen in the block
  T *m, *g, *slopes, *monomials, *by_radial, *q_slope;
  // Pair functions of the kSlots slots at hand; they stay in memory for all slots of the block, because
  // the second loop over pairs needs them again. unit: x, y, z; f and f_slope: by radial function.
  T *unit[3], *inverse_r, *f, *f_slope, *q;
  V *d = nullptr, *d_dot = nullptr, *sums = nullptr, *weight_sums = nullptr;
  S* weights = nullptr;
  int unflushed = 0;
  int32_t *neighbour = nullptr, *z = nullptr, *uniform = nullptr;
  int64_t* row = nullptr;
  bool keep_rows = false, keep_neighbours = false, with_slopes = false;
  T *pairs = nullptr, *passing = nullptr;
  int pair_size = 0;

  // --- geometry ---

  void reserve(int slots) {
    slots = (slots + kSlots - 1) / kSlots * kSlots;
    d = displacement_.get(size_t(slots) * 3 + 3);
    if (kDual) d_dot = tangent_.get(size_t(slots) * 3 + 3);
    neighbour = neighbour_.get(size_t(slots) * W + W);
    z = neighbour_species_.get(size_t(slots) * W + W);
    row = row_.get(size_t(slots) * W + W);
    uniform = uniform_.get(slots + 1);
    pair_size = 3 + (with_slopes ? 1 + 2 * p.n_radial : 0) + (c_bar_ ? p.n_q : 0);
    pairs = pairs_.get(size_t(slots) * pair_size + 1);
  }

  // The pairs of one lane's atom, ordered by the neighbour's species. Pair k has the displacement
  // x[3k], the neighbour base + list[k] and, where there are several species, that species z[k].
  struct Lane {
    const S* x;
    const int32_t *list, *z;
    const int64_t* row;  // of each pair; null: row k is the first one plus k
    uint32_t base;
    int n;
  };

  // Put the pairs of each lane's atom into slots; the rest of the slots is filled with pairs beyond
  // the cutoff, which contribute exactly zero.
  bool load() {
    int longest = 0;
    for (int l = 0; l < n_lanes; l++) {
      const int64_t start = job.start[atom[l]], n = job.count[atom[l]];
      if (n < 0 || start < 0 || start > job.n_rows - n) return false;
      longest = std::max(longest, int(n));
    }
    reserve(longest);
    Lane lanes[W];
    n_slots = 0;
    int common = longest;  // slots that every lane fills
    for (int l = 0; l < W; l++) {
      lanes[l] = lanes[0];
      if (l < n_lanes && !(w.positions ? find_pairs(l, longest, lanes[l]) : take_rows(l, longest, lanes[l])))
        return false;
      n_slots = std::max(n_slots, lanes[l].n);
      common = std::min(common, lanes[l].n);
    }
    n_slots = (n_slots + kSlots - 1) / kSlots * kSlots;
    for (int l = n_lanes; l < W; l++) lanes[l].n = 0;
    transpose(lanes, common);
    for (int s = common; s < n_slots; s++)
      for (int l = 0; l < W; l++) fill(lanes[l], s, l);
    for (int s = 0; s < common && n_lanes < W; s++)
      for (int l = n_lanes; l < W; l++) fill(lanes[l], s, l);
    find_uniform();
    if constexpr (kDual) load_tangent();
    return true;
  }

  // The first slots, in which every lane has a pair.
  void transpose(const Lane (&lanes)[W], int slots) {
    int i = 0;
    for (; i + W <= 3 * slots; i += W) {
      V rows[W];
      UNROLL for (int l = 0; l < W; l++) std::memcpy(rows + l, lanes[l].x + i, sizeof(V));
      exchange(rows);
      UNROLL for (int l = 0; l < W; l++) d[i + l] = rows[l];
    }
    for (; i < 3 * slots; i++) {
      V x;
      UNROLL for (int l = 0; l < W; l++) x[l] = lanes[l].x[i];
      d[i] = x;
    }
    if (keep_neighbours) {
      int32_t* to = neighbour;
      for (int s = 0; s < slots; s++, to += W)
        UNROLL for (int l = 0; l < W; l++) to[l] = int32_t(lanes[l].base + uint32_t(lanes[l].list[s]));
    }
    if (n_species > 1)
      for (int s = 0; s < slots; s++)
        UNROLL for (int l = 0; l < W; l++) z[s * W + l] = lanes[l].z[s];
    if (keep_rows)
      for (int s = 0; s < slots; s++)
        for (int l = 0; l < W; l++) row[s * W + l] = row_of(lanes[l], s, l);
  }

  int64_t row_of(const Lane& lane, int s, int l) const {
    return lane.row ? lane.row[s] : job.start[atom[l]] + s;
  }

  // One slot of one lane, which may have no pair left.
  void fill(const Lane& lane, int s, int l) {
    const bool there = s < lane.n;
    S* x = reinterpret_cast<S*>(d) + 3 * s * W + l;
    for (int k = 0; k < 3; k++) x[k * W] = there ? lane.x[3 * s + k] : k ? S(0) : S(2 * p.r_max);
    if (keep_neighbours)
      neighbour[s * W + l] = there ? int32_t(lane.base + uint32_t(lane.list[s])) : atom[l];
    if (n_species > 1) z[s * W + l] = there ? lane.z[s] : -1;
    if (keep_rows) row[s * W + l] = there ? row_of(lane, s, l) : -1;
  }

  // The species that all pairs of a slot have, or −1.
  void find_uniform() {
    for (int s = 0; s < n_slots; s++) {
      uniform[s] = 0;
      if (n_species == 1) continue;
      int common = -1;
      bool same = true;
      for (int l = 0; l < W; l++) {
        const int other = z[s * W + l];
        if (other < 0) continue;
        if (common < 0) common = other;
        same &= other == common;
      }
      uniform[s] = same ? std::max(common, 0) : -1;
    }
  }

  // Pairs of a batch, as they are or sorted by species.
  bool take_rows(int l, int longest, Lane& lane) {
    const int64_t start = job.start[atom[l]];
    const int n = job.count[atom[l]];
    const uint32_t base = uint32_t(job.base[atom[l]]);
    const int32_t* list = job.neighbour + start;
    uint32_t last = 0;
    for (int k = 0; k < n; k++) last = std::max(last, base + uint32_t(list[k]));
    if (n && last >= w.n_all) return false;
    lane = {static_cast<const S*>(job.displacement) + 3 * start, list, nullptr, nullptr, base, n};
    if (n_species == 1) return true;
    int32_t* other = lane_species_.get(size_t(longest) * W + 1) + size_t(longest) * l;
    bool sorted = true;
    for (int k = 0; k < n; k++) {
      other[k] = job.species[base + uint32_t(list[k])];
      sorted &= !k || other[k - 1] <= other[k];
    }
    lane.z = other;
    if (!sorted) sort_by_species(l, longest, lane);
    return true;
  }

  void sort_by_species(int l, int longest, Lane& lane) {
    const size_t at = size_t(longest) * l, size = size_t(longest) * W + 1;
    S* x = lane_x_.get(3 * size) + 3 * at;
    int32_t *list = lane_list_.get(size) + at, *z = lane_sorted_.get(size) + at;
    int64_t* rows = keep_rows ? lane_row_.get(size) + at : nullptr;
    count_species(lane.z, lane.n);
    for (int k = 0; k < lane.n; k++) {
      const int s = first_[lane.z[k]]++;
      for (int c = 0; c < 3; c++) x[3 * s + c] = lane.x[3 * k + c];
      list[s] = lane.list[k];
      z[s] = lane.z[k];
      if (rows) rows[s] = job.start[atom[l]] + k;
    }
    lane = {x, list, z, rows, lane.base, lane.n};
  }

  // first_[z]: how many of the n species come before z.
  void count_species(const int32_t* species_of, int n) {
    std::fill(first_.begin(), first_.end(), 0);
    for (int k = 0; k < n; k++) first_[species_of[k] + 1]++;
    for (int k = 0; k < n_species; k++) first_[k + 1] += first_[k];
  }

  // Inference: displacements from positions; neighbours beyond the cutoff (the skin) are left out.
  bool find_pairs(int l, int longest, Lane& lane) {
    const int64_t a = atom[l];
    const int n = job.count[a];
    int kept = 0;
    const double* x = w.positions;
    const double ox = x[3 * a], oy = x[3 * a + 1], oz = x[3 * a + 2], limit = p.r_max * p.r_max;
    const size_t at = size_t(longest) * l, size = size_t(longest) * W + W;
    S* near = lane_x_.get(3 * size) + 3 * at;
    int32_t* found = lane_list_.get(size) + at;
    const int32_t* list = job.neighbour + job.start[a];
    uint32_t last = 0;
    for (int k = 0; k < n; k++) last = std::max(last, uint32_t(list[k]));
    if (n && last >= w.n_all) return false;
    for (int k = 0; k < n; k++) {
      const int64_t j = list[k];
      const double dx = x[3 * j] - ox, dy = x[3 * j + 1] - oy, dz = x[3 * j + 2] - oz;
      near[3 * kept] = S(dx);
      near[3 * kept + 1] = S(dy);
      near[3 * kept + 2] = S(dz);
      found[kept] = int32_t(j);
      kept += !(dx * dx + dy * dy + dz * dz >= limit);
    }
    lane = {near, found, nullptr, nullptr, 0, kept};
    if (n_species == 1) return true;
    int32_t* other = lane_species_.get(size) + at;
    for (int k = 0; k < kept; k++) other[k] = job.species[found[k]];
    count_species(other, kept);
    S* x_sorted = lane_x_sorted_.get(3 * size) + 3 * at;
    int32_t *list_sorted = lane_list_sorted_.get(size) + at, *z_sorted = lane_sorted_.get(size) + at;
    for (int k = 0; k < kept; k++) {
      const int s = first_[other[k]]++;
      for (int c = 0; c < 3; c++) x_sorted[3 * s + c] = near[3 * k + c];
      list_sorted[s] = found[k];
      z_sorted[s] = other[k];
    }
    lane = {x_sorted, list_sorted, z_sorted, nullptr, 0, kept};
    return true;
  }

  // ḋ of every slot: given, or that of the displacement field of v and strain.
  void load_tangent() {
    if (job.d_dot) {
      const S* from = static_cast<const S*>(job.d_dot);
      for (int s = 0; s < n_slots; s++)
        for (int k = 0; k < 3; k++)
          for (int l = 0; l < W; l++) {
            const int64_t r = row[s * W + l];
            d_dot[3 * s + k][l] = r < 0 ? S(0) : from[3 * r + k];
          }
      return;
    }
    const S *v = static_cast<const S*>(job.v), *strain = static_cast<const S*>(job.strain);
    V own[3], t[6];
    for (int l = 0; l < W; l++) {
      for (int k = 0; k < 3; k++) own[k][l] = v[3 * int64_t(atom[l]) + k];
      for (int k = 0; k < 6; k++) t[k][l] = strain[6 * int64_t(atom[l]) + k];
    }
    for (int s = 0; s < n_slots; s++) {
      V other[3];
      UNROLL for (int l = 0; l < W; l++) {
        const S* at = v + 3 * int64_t(neighbour[s * W + l]);
        for (int k = 0; k < 3; k++) other[k][l] = at[k];
      }
      const V x = d[3 * s], y = d[3 * s + 1], zz = d[3 * s + 2];
      d_dot[3 * s] = own[0] - other[0] + t[0] * x + t[5] * y + t[4] * zz;
      d_dot[3 * s + 1] = own[1] - other[1] + t[5] * x + t[1] * y + t[3] * zz;
      d_dot[3 * s + 2] = own[2] - other[2] + t[4] * x + t[3] * y + t[2] * zz;
    }
  }

  // --- radial functions and monomials ---

  template <bool SLOPE>
  void pair_functions(int slot) {
    select(slot);
    for (int s = 0; s < kSlots; s++) chebyshev<SLOPE>(slot + s, s);
    radial_functions<SLOPE>(slot);
    monomial_values(p.max_degree - 1);
  }

  void recall_pair_functions(int slot) {
    select(slot);
    monomial_values(p.max_degree - 1);
  }

  // What the second loop over pairs needs stays in memory, the rest is overwritten by the next slots.
  void select(int slot) {
    T *at = pairs + size_t(slot) * pair_size, *rest = passing;
    auto take = [&](int n, bool kept) {
      T*& from = kept ? at : rest;
      return std::exchange(from, from + n * kSlots);
    };
    for (int axis = 0; axis < 3; axis++) unit[axis] = take(1, true);
    inverse_r = take(1, with_slopes);
    f = take(p.n_radial, with_slopes);
    f_slope = take(p.n_radial, with_slopes);
    q = take(p.n_q, c_bar_);
  }

  T displacement(int slot, int k) const {
    if constexpr (kDual) return {d[3 * slot + k], d_dot[3 * slot + k]};
    else return d[3 * slot + k];
  }

  template <bool SLOPE>
  void chebyshev(int slot, int s) {
    T x = displacement(slot, 0), y = displacement(slot, 1), zz = displacement(slot, 2);
    T r, inv;
    root_and_inverse(x * x + y * y + zz * zz, r, inv);
    inverse_r[s] = inv;
    unit[0][s] = x * inv;
    unit[1][s] = y * inv;
    unit[2][s] = zz * inv;
    T slope = r;  // overwritten where it matters
    bool clamped = clamp(r, slope);
    const S scale = S(2 / (p.r_max - p.r_min)), shift = S((p.r_min + p.r_max) / (p.r_max - p.r_min));
    T depth = constant(S(p.r_max)) - r;
    depth = zero_unless_positive(value(depth), depth);
    T xi = times(r, scale) - constant(shift), two_xi = xi + xi;
    T square = depth * depth, first = times(depth, S(-2));
    q[s] = square;
    if (p.n_q > 1) q[kSlots + s] = xi * square;
    for (int n = 2; n < p.n_q; n++)
      q[n * kSlots + s] = two_xi * q[(n - 1) * kSlots + s] - q[(n - 2) * kSlots + s];
    if constexpr (SLOPE) {
      q_slope[s] = first;
      if (p.n_q > 1) q_slope[kSlots + s] = times(square, scale) + xi * first;
      for (int n = 2; n < p.n_q; n++)
        q_slope[n * kSlots + s] = times(q[(n - 1) * kSlots + s], 2 * scale) +
                                  two_xi * q_slope[(n - 1) * kSlots + s] - q_slope[(n - 2) * kSlots + s];
      if (clamped)
        for (int n = 0; n < p.n_q; n++) q_slope[n * kSlots + s] = q_slope[n * kSlots + s] * slope;
    }
  }

  static T constant(S x) {
    if constexpr (kDual) return {V{} + x, V{}};
    else return V{} + x;
  }

  static T zero_unless_positive(V test, T x) {  // NaN stays NaN
    if constexpr (kDual) return {test <= 0 ? V{} : x.v, test <= 0 ? V{} : x.d};
    else return test <= 0 ? V{} : x;
  }

  // Below r_min the distance saturates smoothly; rare, so lane by lane.
  bool clamp(T& r, T& slope) const {
    const V v = value(r);
    const auto below = v < S(p.r_min);
    uint64_t words[sizeof(V) / 8], any = 0;
    std::memcpy(words, &below, sizeof(V));
    for (uint64_t word : words) any |= word;
    if (!any) return false;
    slope = constant(1);
    for (int l = 0; l < W; l++) {
      if (!(v[l] < S(p.r_min))) continue;
      double t = std::tanh((p.r_min - double(v[l])) / kClampWidth), k = 1 - t * t;
      if constexpr (kDual) {
        double r_dot = r.d[l];
        r.v[l] = S(p.r_min - kClampWidth * t);
        r.d[l] = S(k * r_dot);
        slope.v[l] = S(k);
        slope.d[l] = S(2 * t * k / kClampWidth * r_dot);
      } else {
        r[l] = S(p.r_min - kClampWidth * t);
        slope[l] = S(k);
      }
    }
    return true;
  }

  // f_μ = Σ_n c[z_i, z_j, μ, n] Q_n and slopes, for kSlots slots at once.
  template <bool SLOPE>
  void radial_functions(int slot) {
    bool same = true;
    for (int s = 0; s < kSlots; s++) same &= uniform[slot + s] >= 0 && uniform[slot + s] == uniform[slot];
    if (same) return radial_of<SLOPE>(uniform[slot], 0, kSlots);
    for (int s = 0; s < kSlots; s++) {
      if (uniform[slot + s] >= 0) radial_of<SLOPE>(uniform[slot + s], s, s + 1);
      else radial_mixed<SLOPE>(slot, s);
    }
  }

  const S* coefficients(const void* c, int other) const {
    return static_cast<const S*>(c) + (size_t(species) * n_species + other) * radial_size;
  }

  template <bool SLOPE>
  void radial_of(int other, int begin, int end) {
    const S *c = coefficients(job.c, other), *dot = job.c_dot ? coefficients(job.c_dot, other) : nullptr;
    if (begin == 0 && end == kSlots) return radial_sum<SLOPE, kSlots>(c, dot, 0);
    for (int s = begin; s < end; s++) radial_sum<SLOPE, 1>(c, dot, s);
  }

  template <bool SLOPE, int N>
  void radial_sum(const S* c, const S* dot, int s0) {
    for (int mu = 0; mu < p.n_radial; mu++) {
      T sum[N], slope[N];
      UNROLL for (int s = 0; s < N; s++) sum[s] = slope[s] = T{};
      for (int n = 0; n < p.n_q; n++) {
        S k = c[mu * p.n_q + n];
        UNROLL for (int s = 0; s < N; s++) sum[s] += times(q[n * kSlots + s0 + s], k);
        if constexpr (SLOPE)
          UNROLL for (int s = 0; s < N; s++) slope[s] += times(q_slope[n * kSlots + s0 + s], k);
      }
      if constexpr (kDual)
        if (dot)
          for (int n = 0; n < p.n_q; n++)
            for (int s = 0; s < N; s++) {
              sum[s].d += q[n * kSlots + s0 + s].v * dot[mu * p.n_q + n];
              if (SLOPE) slope[s].d += q_slope[n * kSlots + s0 + s].v * dot[mu * p.n_q + n];
            }
      UNROLL for (int s = 0; s < N; s++) {
        f[mu * kSlots + s0 + s] = sum[s];
        if (SLOPE) f_slope[mu * kSlots + s0 + s] = slope[s];
      }
    }
  }

  V mask(int slot, int other) const {
    V out = V{};
    for (int l = 0; l < W; l++) out[l] = z[slot * W + l] == other ? S(1) : S(0);
    return out;
  }

  template <class F>
  void each_species(int slot, F function) const {
    for (int l = 0; l < W; l++) {
      int other = z[slot * W + l];
      bool seen = other < 0;
      for (int k = 0; k < l && !seen; k++) seen = z[slot * W + k] == other;
      if (!seen) function(other, mask(slot, other));
    }
  }

  template <bool SLOPE>
  void radial_mixed(int slot, int s) {
    const int n = p.n_radial;
    T* total = scratch_.get(2 * size_t(n));
    for (int k = 0; k < 2 * n; k++) total[k] = T{};
    each_species(slot + s, [&](int other, V chosen) {
      radial_of<SLOPE>(other, s, s + 1);
      for (int mu = 0; mu < n; mu++) {
        total[mu] += times(f[mu * kSlots + s], chosen);
        if (SLOPE) total[n + mu] += times(f_slope[mu * kSlots + s], chosen);
      }
    });
    for (int mu = 0; mu < n; mu++) {
      f[mu * kSlots + s] = total[mu];
      if (SLOPE) f_slope[mu * kSlots + s] = total[n + mu];
    }
  }

  // Monomials of the unit vector, each one multiplication from its parent of one degree less.
  void monomial_values(int degree) {
    T* to = monomials;
    T x[kSlots], y[kSlots], z[kSlots];
    UNROLL for (int s = 0; s < kSlots; s++) x[s] = unit[0][s], y[s] = unit[1][s], z[s] = unit[2][s];
    for (int s = 0; s < kSlots; s++) to[s] = constant(1);
    for (int n = 1; n <= degree; n++) {
      const T* parent = to;
      int size = n * (n + 1) / 2;  // components of degree n − 1
      to += size * kSlots;
      for (int k = 0; k < size; k++)
        UNROLL for (int s = 0; s < kSlots; s++) to[k * kSlots + s] = parent[k * kSlots + s] * x[s];
      for (int k = 0; k < n; k++)
        UNROLL for (int s = 0; s < kSlots; s++)
          to[(size + k) * kSlots + s] = parent[(size - n + k) * kSlots + s] * y[s];
      UNROLL for (int s = 0; s < kSlots; s++)
        to[(size + n) * kSlots + s] = parent[(size - 1) * kSlots + s] * z[s];
    }
  }

  // --- passes ---

  // A component of degree ν is a monomial of degree ν − 1 times x, y or z: the highest degree is never
  // formed, its factor goes into the weight.
  void moments() {
    for (const CoreTensor& t : p.core) {
      T weight[3][kSlots];
      UNROLL for (int s = 0; s < kSlots; s++) weight[0][s] = f[t.mu * kSlots + s];
      T* to = m + t.row;
      if (t.nu == 0) {
        UNROLL for (int s = 0; s < kSlots; s++) to[0] += weight[0][s];
        continue;
      }
      for (int axis = 2; axis >= 0; axis--)
        UNROLL for (int s = 0; s < kSlots; s++) weight[axis][s] = weight[0][s] * unit[axis][s];
      const T* from = monomials + t.lower * kSlots;
      accumulate(to, from, weight[0], t.lower_size);
      accumulate(to + t.lower_size, from + (t.lower_size - t.nu) * kSlots, weight[1], t.nu);
      accumulate(to + t.lower_size + t.nu, from + (t.lower_size - 1) * kSlots, weight[2], 1);
    }
  }

  static void accumulate(T* to, const T* from, const T (&weight)[kSlots], int n) {
    for (int k = 0; k < n; k++) {
      T sum = to[k];
      UNROLL for (int s = 0; s < kSlots; s++) sum += weight[s] * from[k * kSlots + s];
      to[k] = sum;
    }
  }

  // Rows are addressed by bytes; two sums hide the latency of the multiply-adds.
  static void contract(const Program& program, const T* x, const T* y, T* out, bool add) {
    constexpr size_t kUnit = sizeof(T) / 8;  // Term holds eight times the row
    const char *xs = reinterpret_cast<const char*>(x), *ys = reinterpret_cast<const char*>(y);
    auto row = [](const char* base, uint32_t i) -> const T& {
      return *reinterpret_cast<const T*>(base + i * kUnit);
    };
    const TermOf<S>* term = program.terms<S>();
    for (size_t r = 0; r < program.row.size(); r++) {
      const TermOf<S>* end = program.terms<S>() + program.begin[r + 1];
      T sum = add ? out[program.row[r]] : T{}, other = T{};
      for (; term + 2 <= end; term += 2) {
        sum += times(row(xs, term[0].i), term[0].factor) * row(ys, term[0].j);
        other += times(row(xs, term[1].i), term[1].factor) * row(ys, term[1].j);
      }
      if (term != end) sum += times(row(xs, term->i), term->factor) * row(ys, term->j), term++;
      out[program.row[r]] = sum + other;
    }
  }

  void write_invariants() {
    const int n = static_cast<int>(p.scalars.size());
    for (int l = 0; l < n_lanes; l++) {
      if (job.b) {
        S* out = static_cast<S*>(job.b) + size_t(atom[l]) * n;
        for (int s = 0; s < n; s++) out[s] = value(m[p.scalars[s]])[l];
      }
      if constexpr (kDual)
        if (job.b_dot) {
          S* out = static_cast<S*>(job.b_dot) + size_t(atom[l]) * n;
          for (int s = 0; s < n; s++) out[s] = m[p.scalars[s]].d[l];
        }
    }
  }

  void write_grades() {
    if constexpr (!kDual) {
      const ActiveSet& active = (*w.grading)[species];
      const size_t n = active.used.size();
      V* x = layer_.get(n);
      for (size_t s = 0; s < n; s++)
        x[s] = (m[p.scalars[active.used[s]]] - S(active.mean[s])) * S(active.inverse_std[s]);
      const V largest = largest_coefficient(x, active.as(S()), int64_t(n));
      for (int l = 0; l < n_lanes; l++) w.grades[atom[l]] = double(largest[l]);
    }
  }

  // Start of the reverse pass: ∂/∂B of what is differentiated.
  void seed() {
    for (int r = 0; r < p.n_rows; r++) g[r] = T{};
    if (w.readout) return read_out();
    const int n = static_cast<int>(p.scalars.size());
    const S* first = static_cast<const S*>(kDual ? job.b_dot_bar : job.b_bar);
    const S* second = static_cast<const S*>(kDual ? job.b_bar : nullptr);
    for (int l = 0; l < n_lanes; l++) {
      size_t from = size_t(atom[l]) * n;
      for (int s = 0; s < n; s++) {
        T& to = g[p.scalars[s]];
        if constexpr (kDual) {
          if (first) to.v[l] += first[from + s];
          if (second) to.d[l] += second[from + s];
        } else {
          to[l] += first[from + s];
        }
      }
    }
  }

  // Energies of the atoms and, backwards, ∂E/∂B. In a dual pass the seed 1 + ε·energy_weight makes the
  // tangent part of everything the derivative of Σ energy_weight·E + Ė, the weights' included.
  void read_out() {
    const Readout& head = *w.readout;
    const int n = static_cast<int>(p.scalars.size());
    const size_t total = head.total_width;
    // Inputs of the layers; their activations and those' slopes; ∂E/∂input. Each ends where the last layer does.
    T* in = layer_.get(4 * total);
    T *act = in + total, *steep = act + total, *slope = steep + total;
    run_layers(in, act, steep);
    const int64_t width = head.last_width;
    const S* weight = weights + head.last;
    T seed = constant(S(head.scale));
    if constexpr (kDual)
      for (int l = 0; l < W; l++) {
        seed.v[l] = l < n_lanes ? S(head.scale) : S(0);
        seed.d[l] = l < n_lanes ? S(head.scale * job.energy_weight[atom[l]]) : S(0);
      }
    // Behind hidden layers the inputs of the last weights end with the invariants, whose slopes wait at the end.
    const int64_t outputs = head.layers.empty() ? width : width - head.n_scalars;
    T* direct = slope + (total - head.n_scalars);
    T energy = T{};
    for (int64_t i = 0; i < width; i++) {
      energy += times(in[i], weight[i]);
      (i < outputs ? slope[i] : direct[i - outputs]) = times(seed, weight[i]);
    }
    if (weight_sums)
      for (int64_t i = 0; i < width; i++) weight_sums[head.last + i] += wanted(seed * in[i]);
    if (job.energies)
      for (int l = 0; l < n_lanes; l++) job.energies[atom[l]] = double(value(energy)[l]) * head.scale;
    for (size_t k = head.layers.size(); k-- > 0;) {
      const DenseLayer& layer = head.layers[k];
      const int64_t a = layer.n_in, b = layer.n_out;
      act -= b;
      steep -= b;
      in -= a;
      T* below = slope + b;
      for (int64_t i = 0; i < a; i++) below[i] = layer.skip ? slope[i] : T{};
      if (layer.timestep >= 0) {
        if (weight_sums)
          for (int64_t j = 0; j < b; j++) weight_sums[layer.timestep + j] += wanted(slope[j] * act[j]);
        for (int64_t j = 0; j < b; j++) slope[j] = times(slope[j], weights[layer.timestep + j]);
      }
      for (int64_t j = 0; j < b; j++) slope[j] = slope[j] * steep[j];
      dense_reverse(slope, weights + layer.weight, below, a, b);
      if (weight_sums)
        dense_gradient(slope, in, weight_sums + layer.weight, bias_of(layer, weight_sums), a, b);
      slope = below;
    }
    if (!head.layers.empty())
      for (int s = 0; s < n; s++) slope[s] += direct[s];
    for (int s = 0; s < n; s++) g[p.scalars[s]] += times(slope[s], S(head.inverse_std[s]));
  }

  // The layers on the standardised invariants, moving the pointers on to the last layer.
  void run_layers(T*& in, T*& act, T*& steep) {
    const Readout& head = *w.readout;
    const T* invariants = in;
    for (int64_t s = 0; s < head.n_scalars; s++)
      in[s] = times(m[p.scalars[s]] - constant(S(head.mean[s])), S(head.inverse_std[s]));
    for (const DenseLayer& layer : head.layers) {
      const int64_t a = layer.n_in, b = layer.n_out;
      const S* timestep = layer.timestep < 0 ? nullptr : weights + layer.timestep;
      dense(in, weights + layer.weight, bias_of(layer, weights), act, a, b);
      activate(head.activation, act, steep, b);
      T* out = in + a;
      for (int64_t j = 0; j < b; j++) {
        const T y = timestep ? times(act[j], timestep[j]) : act[j];
        out[j] = layer.skip ? in[j] + y : y;
      }
      act += b;
      steep += b;
      in = out;
    }
    if (head.layers.empty()) return;
    T* behind = in + head.layers.back().n_out;
    for (int64_t s = 0; s < head.n_scalars; s++) behind[s] = invariants[s];
  }

  // Dipoles or polarizabilities of the atoms: Σ gate · tensor.
  void sum_tensors() {
    const Readout& head = *w.readout;
    T *in = layer_.get(3 * head.total_width + 1), *act = in + head.total_width, *steep = act + head.total_width;
    run_layers(in, act, steep);
    V sum[6] = {V{}, V{}, V{}, V{}, V{}, V{}};
    const int32_t* rows = p.scalars.data() + head.n_scalars;
    const S* weight = weights + head.last;
    for (int64_t k = 0; k < head.n_gates; k++, weight += head.last_width + 1) {
      V gate = V{} + weight[head.last_width];
      for (int64_t i = 0; i < head.last_width; i++) gate += value(in[i]) * weight[i];
      if (head.isotropic && !k) {
        for (int c = 0; c < 3; c++) sum[c] += gate;
        continue;
      }
      for (int64_t c = 0; c < head.components; c++) sum[c] += gate * value(m[*rows++]);
    }
    for (int l = 0; l < n_lanes; l++)
      for (int64_t c = 0; c < head.components; c++)
        w.tensors[head.components * atom[l] + c] = double(sum[c][l]) * head.scale;
  }

  template <class X>
  X* bias_of(const DenseLayer& layer, X* numbers) const {
    return numbers + layer.bias + species * layer.bias_stride;
  }

  // Replaces n numbers by their activations; steep: the derivatives of those by the numbers.
  static void activate(Activation kind, T* x, T* steep, int64_t n) {
    switch (kind) {
      case Activation::kTanh: return activate_by<Tanh>(x, steep, n);
      case Activation::kSilu: return activate_by<Silu>(x, steep, n);
      case Activation::kSoftplus: return activate_by<Softplus>(x, steep, n);
      case Activation::kGelu: return activate_by<Gelu>(x, steep, n);
      case Activation::kSigmoid: return activate_by<Sigmoid>(x, steep, n);
    }
  }

  template <class F>
  static void activate_by(T* x, T* steep, int64_t n) {
    for (int64_t j = 0; j < n; j++) {
      const Curve<V> y = F::of(value(x[j]));
      if constexpr (kDual) {
        const V along = x[j].d;
        x[j] = {y.value, y.first * along};
        steep[j] = {y.first, y.second * along};
      } else {
        x[j] = y.value;
        steep[j] = y.first;
      }
    }
  }

  // out[j] = bias[j] + Σ_i weight[j, i]·in[i]; four outputs at once, so that inputs are loaded once.
  static void dense(const T* in, const S* weight, const S* bias, T* out, int64_t a, int64_t b) {
    int64_t j = 0;
    for (; j + 4 <= b; j += 4) {
      T sum[4] = {T{}, T{}, T{}, T{}};
      for (int64_t i = 0; i < a; i++)
        UNROLL for (int k = 0; k < 4; k++) sum[k] += times(in[i], weight[(j + k) * a + i]);
      for (int k = 0; k < 4; k++) out[j + k] = sum[k] + constant(bias[j + k]);
    }
    for (; j < b; j++) {
      T sum = constant(bias[j]);
      for (int64_t i = 0; i < a; i++) sum += times(in[i], weight[j * a + i]);
      out[j] = sum;
    }
  }

  static void dense_reverse(const T* slope, const S* weight, T* below, int64_t a, int64_t b) {
    int64_t j = 0;
    for (; j + 4 <= b; j += 4)
      for (int64_t i = 0; i < a; i++) {
        T sum = below[i];
        UNROLL for (int k = 0; k < 4; k++) sum += times(slope[j + k], weight[(j + k) * a + i]);
        below[i] = sum;
      }
    for (; j < b; j++)
      for (int64_t i = 0; i < a; i++) below[i] += times(slope[j], weight[j * a + i]);
  }

  static void dense_gradient(const T* slope, const T* in, V* bar, V* bias_bar, int64_t a, int64_t b) {
    for (int64_t j = 0; j < b; j++) {
      for (int64_t i = 0; i < a; i++) bar[j * a + i] += wanted(slope[j] * in[i]);
      bias_bar[j] += wanted(slope[j]);
    }
  }

  // ∂E/∂d of every pair, from the slopes of the moments: radial part along û, angular part across it.
  void pull() {
    for (const CoreTensor& t : p.core) tensor_slopes(t, slopes);
    V own[3] = {V{}, V{}, V{}}, virial[6] = {V{}, V{}, V{}, V{}, V{}, V{}};
    for (int slot = 0; slot < n_slots; slot += kSlots) {
      recall_pair_functions(slot);
      T force[3][kSlots];
      UNROLL for (int s = 0; s < kSlots; s++) force[0][s] = force[1][s] = force[2][s] = T{};
      pull_slots(slopes, nullptr, force);
      for (int s = 0; s < kSlots; s++) store_force(slot + s, force[0][s], force[1][s], force[2][s], own, virial);
    }
    if (!forces_) return;
    for (int l = 0; l < n_lanes; l++) {
      for (int k = 0; k < 3; k++) forces_[4 * size_t(atom[l]) + k] += double(own[k][l]);
      if (job.virial)
        for (int k = 0; k < 6; k++) job.virial[6 * size_t(atom[l]) + k] = double(virial[k][l]);
    }
  }

  // What the forces of a tensor need of its slopes g: the factors of the monomials of degree ν − 1.
  void tensor_slopes(const CoreTensor& t, T* to) const {
    if (t.nu == 0) to[t.slope] = g[t.row];
    for (int k = 0; k < t.lower_size; k++)
      for (int axis = 0; axis < 3; axis++)
        to[t.slope + 3 * k + axis] = times(g[t.row + t.up[axis][k]], S(t.power[axis][k]));
  }

  // used: the tensors that have slopes; null: all.
  void pull_slots(const T* slopes, const char* used, T (&force)[3][kSlots]) const {
    size_t index = 0;
    while (index < p.core.size()) {
      const int mu = p.core[index].mu;
      bool any = false;
      T along[kSlots], across[3][kSlots];  // A_μ and Σ_ν ∇P
      UNROLL for (int s = 0; s < kSlots; s++) along[s] = across[0][s] = across[1][s] = across[2][s] = T{};
      for (; index < p.core.size() && p.core[index].mu == mu; index++) {
        const CoreTensor& t = p.core[index];
        if (used && !used[index]) continue;
        any = true;
        if (t.nu == 0) {
          UNROLL for (int s = 0; s < kSlots; s++) along[s] += slopes[t.slope];
          continue;
        }
        T x[kSlots], y[kSlots], zz[kSlots];
        UNROLL for (int s = 0; s < kSlots; s++) x[s] = y[s] = zz[s] = T{};
        const T* from = monomials + t.lower * kSlots;
        const T* slope = slopes + t.slope;
        for (int k = 0; k < t.lower_size; k++) {
          const T gx = slope[3 * k], gy = slope[3 * k + 1], gz = slope[3 * k + 2];
          UNROLL for (int s = 0; s < kSlots; s++) {
            x[s] += gx * from[k * kSlots + s];
            y[s] += gy * from[k * kSlots + s];
            zz[s] += gz * from[k * kSlots + s];
          }
        }
        const S share = S(1.0 / t.nu);  // Euler: û·∇P = ν P
        UNROLL for (int s = 0; s < kSlots; s++) {
          along[s] += times(unit[0][s] * x[s] + unit[1][s] * y[s] + unit[2][s] * zz[s], share);
          across[0][s] += x[s];
          across[1][s] += y[s];
          across[2][s] += zz[s];
        }
      }
      if (!any) continue;
      UNROLL for (int s = 0; s < kSlots; s++) {
        T radial = unit[0][s] * across[0][s] + unit[1][s] * across[1][s] + unit[2][s] * across[2][s];
        T weight = f[mu * kSlots + s] * inverse_r[s];
        T outward = f_slope[mu * kSlots + s] * along[s] - weight * radial;
        for (int k = 0; k < 3; k++) force[k][s] += weight * across[k][s] + outward * unit[k][s];
      }
    }
  }

  // Forces and virial of every invariant by itself, a vector of them at a time.
  void columns() {
    const int n = int(w.columns->size()), padded = (n + W - 1) / W * W;
    for (int first = 0; first < n; first += W) {
      const int count = std::min(W, n - first);
      for (int k = 0; k < count; k++) column_slopes((*w.columns)[first + k], slopes + k * p.n_slopes);
      V own[3][W], virial[6][W];
      for (auto& part : own) std::fill(part, part + W, V{});
      for (auto& part : virial) std::fill(part, part + W, V{});
      for (int slot = 0; slot < n_slots; slot += kSlots) {
        recall_pair_functions(slot);
        V force[kSlots][3][W];
        for (int k = 0; k < W; k++) {
          T one[3][kSlots];
          UNROLL for (int s = 0; s < kSlots; s++) one[0][s] = one[1][s] = one[2][s] = T{};
          if (k < count) pull_slots(slopes + k * p.n_slopes, (*w.columns)[first + k].used.data(), one);
          UNROLL for (int s = 0; s < kSlots; s++) {
            const V x = one[0][s], y = one[1][s], zz = one[2][s];
            const V dx = d[3 * (slot + s)], dy = d[3 * (slot + s) + 1], dz = d[3 * (slot + s) + 2];
            own[0][k] += force[s][0][k] = x;
            own[1][k] += force[s][1][k] = y;
            own[2][k] += force[s][2][k] = zz;
            virial[0][k] += dx * x;
            virial[1][k] += dy * y;
            virial[2][k] += dz * zz;
            virial[3][k] += dy * zz;
            virial[4][k] += dx * zz;
            virial[5][k] += dx * y;
          }
        }
        for (int s = 0; s < kSlots; s++)
          for (int axis = 0; axis < 3; axis++) {
            exchange(force[s][axis]);
            for (int l = 0; l < n_lanes; l++)
              add_row(column_forces_ + (3 * size_t(neighbour[(slot + s) * W + l]) + axis) * padded + first,
                      -force[s][axis][l]);
          }
      }
      for (int axis = 0; axis < 3; axis++) {
        exchange(own[axis]);
        for (int l = 0; l < n_lanes; l++)
          add_row(column_forces_ + (3 * size_t(atom[l]) + axis) * padded + first, own[axis][l]);
      }
      for (int k = 0; k < count; k++)
        for (int c = 0; c < 6; c++)
          for (int l = 0; l < n_lanes; l++)
            job.column_virial[(6 * size_t(atom[l]) + c) * n + first + k] = double(virial[c][k][l]);
    }
  }

  void column_slopes(const Column& column, T* to) {
    for (int r = 0; r < p.n_basic; r++) g[r] = T{};
    for (int32_t r : column.reverse.row) g[r] = T{};
    g[column.row] = constant(1);
    contract(column.reverse, g, m, g, true);
    for (int32_t t : column.traces)
      for (int k : p.traces[t].from) g[k] += g[p.traces[t].row];
    for (size_t i = 0; i < p.core.size(); i++)
      if (column.used[i]) tensor_slopes(p.core[i], to);
  }

  static void add_row(double* to, V x) {
    if constexpr (sizeof(S) == sizeof(double)) {
      V sum;
      std::memcpy(&sum, to, sizeof(V));
      sum += x;
      std::memcpy(to, &sum, sizeof(V));
    } else {
      for (int k = 0; k < W; k++) to[k] += double(x[k]);
    }
  }

  static V wanted(T x) {  // what a pass differentiates: the value, or for dual numbers the tangent
    if constexpr (kDual) return x.d;
    else return x;
  }

  void store_force(int slot, T fx, T fy, T fz, V* own, V* virial) {
    const V x = wanted(fx), y = wanted(fy), zz = wanted(fz);
    if (job.d_bar) {
      S* out = static_cast<S*>(job.d_bar);
      for (int l = 0; l < n_lanes; l++) {
        int64_t to = row[slot * W + l];
        if (to < 0) continue;
        out[3 * to] = x[l];
        out[3 * to + 1] = y[l];
        out[3 * to + 2] = zz[l];
      }
    }
    if (!forces_) return;
    own[0] += x;
    own[1] += y;
    own[2] += zz;
    const V dx = d[3 * slot], dy = d[3 * slot + 1], dz = d[3 * slot + 2];
    virial[0] += dx * x;
    virial[1] += dy * y;
    virial[2] += dz * zz;
    virial[3] += dy * zz;
    virial[4] += dx * zz;
    virial[5] += dx * y;
    subtract(x, y, zz, neighbour + slot * W);
  }

  // Forces (…, 4) of the lanes' neighbours -= (x, y, z, 0): vectors of lanes become one of x, y, z for each.
  void subtract(V x, V y, V zz, const int32_t* to) {
    if constexpr (W % 4 == 0) {
      typedef S Four __attribute__((vector_size(4 * sizeof(S))));
      typedef double Row __attribute__((vector_size(32)));
      Four part[3][W / 4];
      std::memcpy(part[0], &x, sizeof(V));
      std::memcpy(part[1], &y, sizeof(V));
      std::memcpy(part[2], &zz, sizeof(V));
      for (int i = 0; i < W / 4; i++) {
        const Row a = __builtin_convertvector(part[0][i], Row), b = __builtin_convertvector(part[1][i], Row),
                  c = __builtin_convertvector(part[2][i], Row), none = Row{};
        const Row xy02 = SHUFFLE(a, b, 0, 4, 2, 6), xy13 = SHUFFLE(a, b, 1, 5, 3, 7);
        const Row z02 = SHUFFLE(c, none, 0, 4, 2, 6), z13 = SHUFFLE(c, none, 1, 5, 3, 7);
        const Row rows[4] = {SHUFFLE(xy02, z02, 0, 1, 4, 5), SHUFFLE(xy13, z13, 0, 1, 4, 5),
                             SHUFFLE(xy02, z02, 2, 3, 6, 7), SHUFFLE(xy13, z13, 2, 3, 6, 7)};
        const int n = std::min(4, n_lanes - 4 * i);
        auto take = [&](int l) { *reinterpret_cast<Row*>(forces_ + 4 * size_t(to[4 * i + l])) -= rows[l]; };
        if (n == 4) take(0), take(1), take(2), take(3);
        else for (int l = 0; l < n; l++) take(l);
      }
    } else {
      for (int l = 0; l < n_lanes; l++) {
        double* at = forces_ + 4 * size_t(to[l]);
        at[0] -= double(x[l]);
        at[1] -= double(y[l]);
        at[2] -= double(zz[l]);
      }
    }
  }

  // c_bar[z_i, z_j, μ, n] += Σ pairs (Σ_k g_k P_k) Q_n, or its tangent.
  void coefficient_gradient() {
    for (int slot = 0; slot < n_slots; slot += kSlots) {
      recall_pair_functions(slot);
      for (int i = 0; i < p.n_radial * kSlots; i++) by_radial[i] = T{};
      for (const CoreTensor& t : p.core) {
        T* to = by_radial + t.mu * kSlots;
        if (t.nu == 0) {
          UNROLL for (int s = 0; s < kSlots; s++) to[s] += g[t.row];
          continue;
        }
        const T *slope = g + t.row, *from = monomials + t.lower * kSlots;
        add_projection(to, unit[0], slope, from, t.lower_size);
        add_projection(to, unit[1], slope + t.lower_size, from + (t.lower_size - t.nu) * kSlots, t.nu);
        add_projection(to, unit[2], slope + t.lower_size + t.nu, from + (t.lower_size - 1) * kSlots, 1);
      }
      add_outer(slot);
    }
    flush();
  }

  static void add_projection(T* to, const T* axis, const T* slope, const T* from, int n) {
    T sum[kSlots];
    UNROLL for (int s = 0; s < kSlots; s++) sum[s] = T{};
    for (int k = 0; k < n; k++) {
      const T weight = slope[k];
      UNROLL for (int s = 0; s < kSlots; s++) sum[s] += weight * from[k * kSlots + s];
    }
    UNROLL for (int s = 0; s < kSlots; s++) to[s] += axis[s] * sum[s];
  }

  void add_outer(int slot) {
    bool same = true;
    for (int s = 0; s < kSlots; s++) same &= uniform[slot + s] >= 0 && uniform[slot + s] == uniform[slot];
    if (same) {
      V* to = sums + uniform[slot] * radial_size;
      touched_[uniform[slot]] = 1;
      for (int mu = 0; mu < p.n_radial; mu++)
        for (int n = 0; n < p.n_q; n++) {
          V sum = to[mu * p.n_q + n];
          UNROLL for (int s = 0; s < kSlots; s++) sum += outer(mu, n, s);
          to[mu * p.n_q + n] = sum;
        }
      return;
    }
    for (int s = 0; s < kSlots; s++)
      each_species(slot + s, [&](int other, V chosen) {
        V* to = sums + other * radial_size;
        touched_[other] = 1;
        for (int mu = 0; mu < p.n_radial; mu++)
          for (int n = 0; n < p.n_q; n++) to[mu * p.n_q + n] += chosen * outer(mu, n, s);
      });
  }

  V outer(int mu, int n, int s) const {
    const T a = by_radial[mu * kSlots + s], b = q[n * kSlots + s];
    if constexpr (kDual) return a.v * b.d + a.d * b.v;
    else return a * b;
  }

  void flush_weights() {
    unflushed = 0;
    if (!weight_sums) return;
    for (size_t i = 0; i < w.readout->weights.size(); i++) {
      for (int l = 0; l < W; l++) weights_bar_[i] += double(weight_sums[i][l]);
      weight_sums[i] = V{};
    }
  }

  void flush() {
    for (int other = 0; other < n_species; other++) {
      if (!touched_[other]) continue;
      touched_[other] = 0;
      double* to = c_bar_ + (size_t(species) * n_species + other) * radial_size;
      V* from = sums + other * radial_size;
      for (int i = 0; i < radial_size; i++) {
        double sum = 0;
        for (int l = 0; l < W; l++) sum += double(from[i][l]);
        to[i] += sum;
        from[i] = V{};
      }
    }
  }
};

// --- blocks and threads -----------------------------------------------------------------------------

struct Block {
  int32_t begin, size;
};

// Atoms begin … end by species and number of neighbours, by counting; `first` is scratch.
inline void sort_window(const mtp_job& job, int64_t begin, int64_t end, std::vector<int32_t>& first,
                        std::vector<int32_t>& order) {
  int32_t most = 0;
  for (int64_t i = begin; i < end; i++) most = std::max(most, job.count[i]);
  int shift = 0;  // of many different numbers, similar ones share a key
  while (job.n_species * (int64_t(most >> shift) + 1) > 64 * kWindow && most >> shift) shift++;
  const int64_t step = int64_t(most >> shift) + 1, keys = job.n_species * step;
  auto key = [&](int64_t i) { return job.species[i] * step + (std::max(job.count[i], 0) >> shift); };
  first.assign(keys + 1, 0);
  for (int64_t i = begin; i < end; i++) first[key(i) + 1]++;
  for (int64_t k = 0; k < keys; k++) first[k + 1] += first[k];
  for (int64_t i = begin; i < end; i++) order[begin + first[key(i)]++] = int32_t(i);
}

// Lanes: atoms of one species with similar numbers of neighbours, taken from nearby atoms.
inline void make_blocks(const mtp_job& job, int lanes, std::vector<int32_t>& order, std::vector<Block>& blocks) {
  const int64_t n = job.n_atoms;
  order.resize(n);
  std::vector<int32_t> first;
  for (int64_t begin = 0; begin < n; begin += kWindow) {
    int64_t end = std::min<int64_t>(n, begin + kWindow);
    sort_window(job, begin, end, first, order);
    for (int64_t i = begin; i < end;) {
      int64_t last = i + 1;
      while (last < end && last - i < lanes && job.species[order[last]] == job.species[order[i]]) last++;
      blocks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(last - i)});
      i = last;
    }
  }
}

inline void add_threads(const std::vector<std::vector<double>>& parts, int64_t n, double* out) {
  for (int64_t i = 0; i < n; i++) {
    out[i] = 0;
    for (const auto& part : parts)
      if (!part.empty()) out[i] += part[i];
  }
}

template <class S, class T>
const char* run_as(const Work& w) {
  const mtp_job& job = w.job;
  const int64_t c_size = job.n_species * job.n_species * w.plan->n_radial * w.plan->n_q;
  std::vector<int32_t> order;
  std::vector<Block> blocks;
  make_blocks(job, Lanes<S>::n, order, blocks);
  int n_threads = 1;
#ifdef _OPENMP
  n_threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(job.n_threads, blocks.size() / 2)));
#endif
  // Each thread sums into arrays of its own, added in the order of the threads: the same result every time.
  // Forces stand in rows of four numbers there.
  std::vector<Buffer<double>> forces(n_threads), column_forces(n_threads);
  const size_t n_columns = w.columns ? w.columns->size() : 0;
  const size_t padded = (n_columns + Lanes<S>::n - 1) / Lanes<S>::n * Lanes<S>::n;
  std::vector<std::vector<double>> c_bar(n_threads), weights_bar(n_threads);
  const size_t n_weights = job.weights_bar ? w.readout->weights.size() : 0;
  bool bad = false;
  std::exception_ptr error;  // no exception may leave a parallel region
  const int64_t n_blocks = static_cast<int64_t>(blocks.size());
#pragma omp parallel num_threads(n_threads) reduction(|| : bad)
  try {
    int t = 0, team = 1;
#ifdef _OPENMP
    t = omp_get_thread_num();
    team = omp_get_num_threads();  // OpenMP may give fewer than asked for
#endif
    double* own_forces = nullptr;
    if (job.forces) {
      own_forces = forces[t].get(4 * w.n_all + 4);
      std::fill(own_forces, own_forces + 4 * w.n_all, 0.0);
    }
    double* own_columns = nullptr;
    if (n_columns) {
      own_columns = column_forces[t].get(3 * w.n_all * padded + 1);
      std::fill(own_columns, own_columns + 3 * w.n_all * padded, 0.0);
    }
    double* own_c_bar = nullptr;
    if (job.c_bar) {
      c_bar[t].assign(c_size, 0.0);
      own_c_bar = c_bar[t].data();
    }
    weights_bar[t].assign(n_weights, 0.0);
    {
      Pass<S, T> pass(w, own_forces, own_c_bar, n_weights ? weights_bar[t].data() : nullptr, own_columns);
      const int64_t end = n_blocks * (t + 1) / team;
      for (int64_t b = n_blocks * t / team; b < end && !bad; b++) {
        if (b + 1 < end) pass.fetch(order.data() + blocks[b + 1].begin, blocks[b + 1].size);
        bad |= !pass.run(order.data() + blocks[b].begin, blocks[b].size);
      }
    }
  } catch (...) {
#pragma omp critical(mtp_error)
    error = std::current_exception();
  }
  if (error) std::rethrow_exception(error);
  if (bad) return "a neighbour index or pair range is out of bounds";
  if (job.forces) {
#pragma omp parallel for num_threads(n_threads)
    for (int64_t i = 0; i < w.n_all; i++)
      for (int k = 0; k < 3; k++) {
        double sum = 0;
        for (const auto& part : forces)
          if (part.there()) sum += part.there()[4 * i + k];
        job.forces[3 * i + k] = sum;
      }
  }
  if (n_columns) {
#pragma omp parallel for num_threads(n_threads)
    for (int64_t i = 0; i < 3 * w.n_all; i++)
      for (size_t k = 0; k < n_columns; k++) {
        double sum = 0;
        for (const auto& part : column_forces)
          if (part.there()) sum += part.there()[i * padded + k];
        job.column_forces[i * n_columns + k] = sum;
      }
  }
  if (job.c_bar) add_threads(c_bar, c_size, static_cast<double*>(job.c_bar));
  if (n_weights) add_threads(weights_bar, n_weights, job.weights_bar);
  return nullptr;
}

const char* run(const Work& w) {
  const bool dual = w.job.d_dot || w.job.v || w.job.c_dot;  // c_dot alone goes with a zero d_dot
  if (w.job.single) {
    typedef Lanes<float>::Vector V;
    return dual ? run_as<float, Dual<V>>(w) : run_as<float, V>(w);
  }
  typedef Lanes<double>::Vector V;
  return dual ? run_as<double, Dual<V>>(w) : run_as<double, V>(w);
}

}  // namespace MTP_ISA
}  // namespace mtp
