// Every pass of the kernel on cases written by sanitize.py, for valgrind: all results are read.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "mtp.h"

namespace {

template <class X>
std::vector<X> read(FILE* file) {
  int64_t n = 0;
  if (std::fread(&n, sizeof n, 1, file) != 1) std::abort();
  std::vector<X> values(n);
  if (n && std::fread(values.data(), sizeof(X), n, file) != size_t(n)) std::abort();
  return values;
}

template <class X>
std::vector<int32_t> narrow(const std::vector<X>& from) {
  return {from.begin(), from.end()};
}

char message[256];
double checksum = 0;

void done(int status) {
  if (status) std::printf("error: %s\n", message), std::exit(2);
}

template <class S>
void use(const std::vector<S>& results) {  // a branch on every number, so that valgrind looks at it
  for (S x : results)
    if (std::isfinite(x)) checksum += double(x);
}

std::vector<double> numbers(size_t n) {
  std::vector<double> out(n);
  for (size_t i = 0; i < n; i++) out[i] = std::sin(1.0 + 3.7 * double(i));
  return out;
}

struct Case {
  std::vector<int64_t> basic, products, scalars, sizes, start;
  std::vector<int32_t> species, count, neighbour, base;
  std::vector<double> limits, c, d;
  int64_t n, rows, n_scalars;

  explicit Case(FILE* file) {
    basic = read<int64_t>(file);
    products = read<int64_t>(file);
    scalars = read<int64_t>(file);
    sizes = read<int64_t>(file);
    species = narrow(read<int64_t>(file));
    start = read<int64_t>(file);
    count = narrow(read<int64_t>(file));
    neighbour = narrow(read<int64_t>(file));
    limits = read<double>(file);
    c = read<double>(file);
    d = read<double>(file);
    n = int64_t(species.size());
    rows = int64_t(neighbour.size());
    n_scalars = int64_t(scalars.size());
    base.assign(n, 0);
  }
};

template <class S>
void run_passes(const Case& at, const mtp_basis* basis, const mtp_readout* readout, int64_t n_weights) {
  auto real = [](const std::vector<double>& x) { return std::vector<S>(x.begin(), x.end()); };
  const auto d = real(at.d), c = real(at.c), c_dot = real(numbers(at.c.size()));
  const auto d_dot = real(numbers(at.d.size() + 1)), v = real(numbers(3 * at.n)), strain = real(numbers(6 * at.n));
  const auto b_bar = real(numbers(at.n * at.n_scalars)), b_dot_bar = real(numbers(at.n * at.n_scalars));
  const auto energy_weight = numbers(at.n);
  mtp_job empty{};
  empty.single = sizeof(S) == 4;
  empty.n_threads = 2;
  empty.n_atoms = at.n;
  empty.n_species = at.sizes[2];
  empty.n_rows = at.rows;
  empty.species = at.species.data();
  empty.start = at.start.data();
  empty.count = at.count.data();
  empty.base = at.base.data();
  empty.neighbour = at.neighbour.data();
  empty.displacement = d.data();
  empty.c = c.data();
  for (int kind = 0; kind < 6; kind++) {
    std::vector<S> b(at.n * at.n_scalars), b_dot(b.size()), d_bar(at.d.size() + 1);
    std::vector<double> c_bar(c.size()), forces(3 * at.n), virial(6 * at.n), energies(at.n), weights_bar(n_weights);
    mtp_job job = empty;
    if (kind == 0) job.b = b.data();
    if (kind == 1) job.b_bar = b_bar.data(), job.c_bar = c_bar.data(), job.d_bar = d_bar.data();
    if (kind == 2) {
      job.c_dot = c_dot.data(), job.d_dot = d_dot.data();
      job.b_bar = b_bar.data(), job.b_dot_bar = b_dot_bar.data();
      job.b_dot = b_dot.data(), job.c_bar = c_bar.data(), job.d_bar = d_bar.data();
    }
    if (kind == 3) job.b_bar = b_bar.data(), job.forces = forces.data(), job.virial = virial.data();
    if (kind == 4) {
      job.readout = readout;
      job.energies = energies.data(), job.forces = forces.data(), job.virial = virial.data();
    }
    if (kind == 5) {
      job.readout = readout, job.v = v.data(), job.strain = strain.data();
      job.energy_weight = energy_weight.data();
      job.c_bar = c_bar.data(), job.weights_bar = weights_bar.data();
    }
    done(mtp_run(basis, &job, message, sizeof message));
    use(b), use(b_dot), use(d_bar), use(c_bar), use(forces), use(virial), use(energies), use(weights_bar);
  }
}

void run_inference(const Case& at, const mtp_basis* basis, const mtp_readout* readout) {
  mtp_model* model = nullptr;
  const auto shifts = numbers(at.sizes[2]), positions = numbers(3 * at.n);
  done(mtp_model_new(basis, readout, at.sizes[2], at.c.data(), shifts.data(), &model, message, sizeof message));
  std::vector<int32_t> count(at.n, int32_t(at.n - 1)), neighbour;
  std::vector<int64_t> start;
  for (int64_t i = 0; i < at.n; i++) {
    start.push_back(int64_t(neighbour.size()));
    for (int32_t j = 0; j < at.n; j++)
      if (j != i) neighbour.push_back(j);
  }
  for (int single = 0; single < 2; single++) {
    std::vector<double> energy(1), energies(at.n), forces(3 * at.n), virial(6);
    done(mtp_model_compute(model, single, 1, at.n, at.n, at.species.data(), positions.data(), start.data(),
                           count.data(), neighbour.data(), energy.data(), energies.data(), forces.data(),
                           virial.data(), nullptr, message, sizeof message));
    use(energy), use(energies), use(forces), use(virial);
  }
  mtp_model_free(model);
}

}  // namespace

int main(int n_files, char** files) {
  for (int i = 1; i < n_files; i++) {
    FILE* file = std::fopen(files[i], "rb");
    if (!file) std::abort();
    const Case at(file);
    std::fclose(file);
    mtp_basis* basis = nullptr;
    done(mtp_basis_new(int64_t(at.basic.size() / 4), at.basic.data(), int64_t(at.products.size() / 4),
                       at.products.data(), at.n_scalars, at.scalars.data(), at.sizes[0], at.limits[0],
                       at.limits[1], at.sizes[1], &basis, message, sizeof message));
    for (const char* activation : {"", "tanh", "silu", "softplus", "gelu", "sigmoid"}) {
      std::vector<int64_t> widths;  // none: linear
      if (*activation) widths = {5, 5, 3};
      const int64_t n_biases = *activation == 's' ? at.sizes[2] : 1, timestep = n_biases > 1;
      int64_t n_weights = widths.empty() ? 0 : (n_biases - 1) * widths[0] + timestep * 5, below = at.n_scalars;
      for (int64_t width : widths) n_weights += (below + 1) * width, below = width;
      const auto weights = numbers(n_weights += below + (widths.empty() ? 0 : at.n_scalars)), mean = numbers(at.n_scalars);
      mtp_readout* readout = nullptr;
      done(mtp_readout_new(at.n_scalars, mean.data(), mean.data(), 0.5, int64_t(widths.size()), widths.data(),
                           *activation ? activation : "tanh", timestep, n_biases, weights.data(), &readout,
                           message, sizeof message));
      run_passes<double>(at, basis, readout, n_weights);
      run_passes<float>(at, basis, readout, n_weights);
      run_inference(at, basis, readout);
      mtp_readout_free(readout);
    }
    mtp_basis_free(basis);
  }
  std::printf("%s: %d cases, checksum %.6g\n", mtp_isa(), n_files - 1, checksum);
  return 0;
}
