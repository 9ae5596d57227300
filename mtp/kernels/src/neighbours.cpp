// Neighbour lists with periodic images as ghost atoms, by sorting everything into bins.
#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "neighbours.h"

namespace mtp {
namespace {

using Vector = std::array<double, 3>;

Vector cross(const Vector& a, const Vector& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
Vector scaled(const Vector& a, double factor) { return {a[0] * factor, a[1] * factor, a[2] * factor}; }
bool finite(double x) { return x - x == 0; }

// The cell with unit vectors across the periodic directions in place of those that are not periodic.
struct Frame {
  Vector row[3], inverse[3];  // fraction k of a point is its product with inverse[k]
  double height[3];

  Frame(const double* cell, const int32_t* pbc) {
    int periodic = 0;
    for (int k = 0; k < 3; k++) {
      row[k] = pbc[k] ? Vector{cell[3 * k], cell[3 * k + 1], cell[3 * k + 2]} : Vector{0, 0, 0};
      periodic += pbc[k] != 0;
      if (!finite(dot(row[k], row[k]))) throw std::runtime_error("the cell is not finite");
    }
    if (periodic == 0) row[0] = {1, 0, 0};
    if (periodic <= 1) add_across();
    if (periodic <= 2) add_third();
    const double volume = dot(row[0], cross(row[1], row[2]));
    for (int k = 0; k < 3; k++) {
      const Vector area = cross(row[(k + 1) % 3], row[(k + 2) % 3]);
      inverse[k] = scaled(area, 1 / volume);
      height[k] = std::abs(volume) / std::sqrt(dot(area, area));
      if (!(height[k] > 1e-6)) throw std::runtime_error("the cell has no volume");
    }
  }

 private:
  bool empty(int k) const { return dot(row[k], row[k]) == 0; }

  void add_across() {  // a second vector, across the only one that is there
    int there = 0;
    while (there < 2 && empty(there)) there++;
    const Vector& a = row[there];
    const int k = there == 0 ? 1 : 0;
    int least = 0;
    for (int i = 1; i < 3; i++)
      if (std::abs(a[i]) < std::abs(a[least])) least = i;
    Vector axis = {0, 0, 0};
    axis[least] = 1;
    set_unit(k, cross(a, axis));
  }

  void add_third() {
    int k = 0;
    while (k < 2 && !empty(k)) k++;
    set_unit(k, cross(row[(k + 1) % 3], row[(k + 2) % 3]));
  }

  void set_unit(int k, const Vector& v) {
    const double length = std::sqrt(dot(v, v));
    if (!(length > 1e-12)) throw std::runtime_error("the cell has no volume");
    row[k] = scaled(v, 1 / length);
  }
};

// Atoms wrapped into the cell, then their images within reach of it.
struct Points {
  std::vector<Vector> place, fraction;
  Vector low, high;  // of the fractions

  Points(int64_t n, const double* positions, const Frame& frame, const int32_t* pbc, double cutoff,
         mtp_neighbours& list) {
    double expected = double(n);
    Vector reach = {0, 0, 0};
    for (int k = 0; k < 3; k++) {
      reach[k] = pbc[k] ? cutoff / frame.height[k] : 0;
      expected *= 1 + 2 * reach[k];
    }
    if (expected > 1e9) throw std::runtime_error("too many periodic images: is the cell in Å?");
    for (int64_t i = 0; i < n; i++) add_atom(positions + 3 * i, frame, pbc, int32_t(i), list);
    low = high = n ? fraction[0] : Vector{0, 0, 0};
    for (int64_t i = 0; i < n; i++) add_images(i, frame, pbc, reach, list);
    for (const Vector& f : fraction)
      for (int k = 0; k < 3; k++) {
        low[k] = std::min(low[k], f[k]);
        high[k] = std::max(high[k], f[k]);
      }
  }

 private:
  void add(const Vector& x, const Vector& f, int32_t owner, const std::array<int32_t, 3>& image,
           mtp_neighbours& list) {
    place.push_back(x);
    fraction.push_back(f);
    list.owner.push_back(owner);
    list.image.insert(list.image.end(), image.begin(), image.end());
  }

  static Vector moved(Vector x, const Frame& frame, const std::array<int32_t, 3>& image) {
    for (int k = 0; k < 3; k++)
      for (int c = 0; c < 3; c++) x[c] += image[k] * frame.row[k][c];
    return x;
  }

  void add_atom(const double* position, const Frame& frame, const int32_t* pbc, int32_t i,
                mtp_neighbours& list) {
    const Vector x = {position[0], position[1], position[2]};
    std::array<int32_t, 3> image = {0, 0, 0};
    Vector f;
    for (int k = 0; k < 3; k++) {
      f[k] = dot(x, frame.inverse[k]);
      if (!(std::abs(f[k]) < 1e9)) throw std::runtime_error("positions are not finite or absurdly far away");
      if (pbc[k]) image[k] = -int32_t(std::floor(f[k]));
      f[k] += image[k];
    }
    add(moved(x, frame, image), f, i, image, list);
  }

  void add_images(int64_t i, const Frame& frame, const int32_t* pbc, const Vector& reach,
                  mtp_neighbours& list) {
    const Vector x = place[i], f = fraction[i];
    int32_t first[3] = {0, 0, 0}, last[3] = {0, 0, 0};
    for (int k = 0; k < 3; k++) {
      if (!pbc[k]) continue;
      first[k] = int32_t(std::ceil(-reach[k] - f[k] - 1e-9));
      last[k] = int32_t(std::floor(1 + reach[k] - f[k] + 1e-9));
    }
    std::array<int32_t, 3> m;
    for (m[0] = first[0]; m[0] <= last[0]; m[0]++)
      for (m[1] = first[1]; m[1] <= last[1]; m[1]++)
        for (m[2] = first[2]; m[2] <= last[2]; m[2]++) {
          if (m[0] == 0 && m[1] == 0 && m[2] == 0) continue;
          std::array<int32_t, 3> image = m;
          for (int k = 0; k < 3; k++) image[k] += list.image[3 * i + k];
          add(moved(x, frame, m), {f[0] + m[0], f[1] + m[1], f[2] + m[2]}, int32_t(i), image, list);
        }
  }
};

// Points sorted into bins of about half a cutoff; those of consecutive last indices stand together.
class Bins {
 public:
  Bins(const Points& points, const Frame& frame, double cutoff) : low_(points.low) {
    const size_t n = points.place.size();
    double width = 0.5 * cutoff;
    for (;; width *= 1.5) {  // a few atoms far apart must not make a bin for each Å between them
      double total = 1;
      for (int k = 0; k < 3; k++)
        total *= 1 + std::floor((points.high[k] - points.low[k]) * frame.height[k] / width);
      if (total <= 4.0 * double(n) + 64) break;
    }
    size_t total = 1;
    for (int k = 0; k < 3; k++) {
      inverse_width_[k] = frame.height[k] / width;
      size_[k] = 1 + int64_t((points.high[k] - points.low[k]) * inverse_width_[k]);
      total *= size_t(size_[k]);
    }
    reach_ = int64_t(std::ceil(cutoff / width * (1 + 1e-9)));
    sort(points, total);
  }

  // function(index, place) for all points that can be within the cutoff of a point.
  template <class F>
  void near(const Vector& fraction, F function) const {
    int64_t from[3], to[3];
    for (int k = 0; k < 3; k++) {
      const int64_t own = index(fraction[k], k);
      from[k] = std::max<int64_t>(0, own - reach_);
      to[k] = std::min(size_[k] - 1, own + reach_);
    }
    for (int64_t a = from[0]; a <= to[0]; a++)
      for (int64_t b = from[1]; b <= to[1]; b++) {
        const int64_t bin = (a * size_[1] + b) * size_[2];
        for (int32_t s = begin_[bin + from[2]]; s < begin_[bin + to[2] + 1]; s++) function(index_[s], place_[s]);
      }
  }

 private:
  Vector low_, inverse_width_;
  int64_t size_[3], reach_;
  std::vector<int32_t> begin_, index_;
  std::vector<Vector> place_;

  int64_t index(double fraction, int k) const {
    return std::min(size_[k] - 1, int64_t((fraction - low_[k]) * inverse_width_[k]));
  }

  void sort(const Points& points, size_t total) {
    const size_t n = points.place.size();
    std::vector<int32_t> bin(n);
    begin_.assign(total + 1, 0);
    for (size_t i = 0; i < n; i++) {
      const Vector& f = points.fraction[i];
      bin[i] = int32_t((index(f[0], 0) * size_[1] + index(f[1], 1)) * size_[2] + index(f[2], 2));
      begin_[size_t(bin[i]) + 1]++;
    }
    for (size_t b = 0; b < total; b++) begin_[b + 1] += begin_[b];
    std::vector<int32_t> next(begin_.begin(), begin_.end() - 1);
    index_.resize(n);
    place_.resize(n);
    for (size_t i = 0; i < n; i++) {
      const int32_t to = next[bin[i]]++;
      index_[to] = int32_t(i);
      place_[to] = points.place[i];
    }
  }
};

// Neighbours of the atoms begin … end, in one part of the list.
void search(const Bins& bins, const Points& points, double square, int64_t begin, int64_t end,
            std::vector<int32_t>& count, std::vector<int32_t>& part) {
  for (int64_t i = begin; i < end; i++) {
    const Vector x = points.place[i];
    const size_t before = part.size();
    bins.near(points.fraction[i], [&](int32_t j, const Vector& y) {
      const double dx = y[0] - x[0], dy = y[1] - x[1], dz = y[2] - x[2];
      if (dx * dx + dy * dy + dz * dz < square && j != i) part.push_back(j);
    });
    count[i] = int32_t(part.size() - before);
  }
}

}  // namespace

void find_neighbours(int64_t n, const double* positions, const double* cell, const int32_t* pbc, double cutoff,
                     int64_t n_threads, mtp_neighbours& list) {
  if (n < 0 || n > 200000000) throw std::runtime_error("the number of atoms is out of range");
  if (!(cutoff > 0) || !finite(cutoff)) throw std::runtime_error("the cutoff must be above 0 Å");
  const Frame frame(cell, pbc);
  const Points points(n, positions, frame, pbc, cutoff, list);
  const Bins bins(points, frame, cutoff);
  list.count.resize(n);
  int parts = 1;
#ifdef _OPENMP
  parts = int(std::max<int64_t>(1, std::min<int64_t>(n_threads, n / 500)));
#else
  (void)n_threads;
#endif
  list.parts.resize(parts);
  std::exception_ptr error;  // no exception may leave a parallel region
#pragma omp parallel for num_threads(parts)
  for (int t = 0; t < parts; t++) {
    try {
      search(bins, points, cutoff * cutoff, n * t / parts, n * (t + 1) / parts, list.count, list.parts[t]);
    } catch (...) {
#pragma omp critical(mtp_error)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace mtp
