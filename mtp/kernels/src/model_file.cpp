// A model file (mtp/model_file.py) as a potential ready for inference. Everything in the file is
// checked: a damaged one is an error, never a crash.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "json.h"
#include "model.h"

namespace mtp {
namespace {

constexpr int64_t kFormat = 2;

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

std::string read_bytes(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  std::string content;
  char chunk[1 << 14];
  while (file) {
    const size_t n = std::fread(chunk, 1, sizeof(chunk), file.get());
    content.append(chunk, n);
    if (n == sizeof(chunk)) continue;
    if (!std::ferror(file.get())) return content;
    break;
  }
  fail(path + ": cannot be read: " + std::strerror(errno));
}

uint64_t little_endian(const char* bytes, int n) {
  uint64_t value = 0;
  for (int k = n; k-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[k]);
  return value;
}

// The tensors of a safetensors file: 8 bytes with the length of a JSON header, the header, the data.
class Tensors {
 public:
  explicit Tensors(std::string content) : content_(std::move(content)) {
    if (content_.size() < 8) fail("");
    const uint64_t length = little_endian(content_.data(), 8);
    if (length > content_.size() - 8) fail("");
    header_ = JsonReader::read(content_.substr(8, length));
    if (header_.kind != Json::kObject) fail("");
    data_ = 8 + length;
  }

  const Json& header() const { return header_; }
  int64_t size() const { return int64_t(content_.size()); }  // bytes: there are fewer numbers
  bool has(const std::string& name) const { return header_.find(name); }

  std::vector<int64_t> shape(const std::string& name) const { return entry_of(name).at("shape").integers(); }

  int64_t length(const std::string& name) const {
    const std::vector<int64_t> found = shape(name);
    if (found.size() != 1) fail("tensor " + name + " has a wrong shape");
    return found[0];
  }

  std::vector<double> real(const std::string& name, const std::vector<int64_t>& shape) const {
    const Json& entry = find(name, shape);
    const std::string& dtype = entry.at("dtype").string();
    if (dtype != "F64" && dtype != "F32") fail("tensor " + name + " is " + dtype + ", not F64 or F32");
    const int size = dtype == "F64" ? 8 : 4;
    std::vector<double> out;
    each(name, entry, shape, size, [&](uint64_t bits) {
      double value;
      if (size == 8) {
        std::memcpy(&value, &bits, 8);
      } else {
        const uint32_t low = uint32_t(bits);
        float single;
        std::memcpy(&single, &low, 4);
        value = single;
      }
      if (!(value - value == 0)) fail("tensor " + name + " is not finite");
      out.push_back(value);
    });
    return out;
  }

  // Rows of `columns` numbers each, or plain numbers where columns is 0.
  std::vector<int64_t> integers(const std::string& name, int64_t columns) const {
    std::vector<int64_t> shape = this->shape(name);
    if (shape.empty()) fail("tensor " + name + " is one number");
    shape.resize(columns ? 2 : 1);
    if (columns) shape[1] = columns;
    const Json& entry = find(name, shape);
    if (entry.at("dtype").string() != "I32") fail("tensor " + name + " is not I32");
    std::vector<int64_t> out;
    each(name, entry, shape, 4, [&](uint64_t bits) { out.push_back(int32_t(uint32_t(bits))); });
    return out;
  }

 private:
  std::string content_;
  Json header_;
  size_t data_ = 0;

  const Json& entry_of(const std::string& name) const {
    const Json* entry = header_.find(name);
    if (!entry) fail("tensor " + name + " is missing");
    return *entry;
  }

  const Json& find(const std::string& name, const std::vector<int64_t>& shape) const {
    const Json& entry = entry_of(name);
    if (entry.at("shape").integers() != shape) fail("tensor " + name + " has a wrong shape");
    return entry;
  }

  template <class F>
  void each(const std::string& name, const Json& entry, const std::vector<int64_t>& shape, int size,
            F function) const {
    const std::vector<int64_t> range = entry.at("data_offsets").integers();
    const int64_t there = int64_t(content_.size() - data_);
    if (range.size() != 2 || range[0] < 0 || range[1] < range[0] || range[1] > there)
      fail("tensor " + name + " lies beyond the end of the file");
    int64_t count = 1;
    for (int64_t n : shape) {
      if (n < 0 || (n > 0 && count > there / n)) fail("tensor " + name + " has a wrong shape");
      count *= n;
    }
    if (count > there / size || count * size != range[1] - range[0])
      fail("tensor " + name + " has a wrong size");
    for (int64_t i = 0; i < count; i++)
      function(little_endian(content_.data() + data_ + range[0] + i * size, size));
  }
};

// "default, pbe" for messages.
std::string listed(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

size_t choose_head(const std::vector<std::string>& heads, const char* asked) {
  if (!asked && heads.size() == 1) return 0;
  for (size_t i = 0; i < heads.size(); i++)
    if (asked && heads[i] == asked) return i;
  fail("head must be one of " + listed(heads) + " of this potential: " +
       (asked ? "it has no '" + std::string(asked) + "'" : "it has several and none was named"));
}

// Shape of the last weights of a tensor: gates on the last layer, or plain weights of the invariants
// (of the unit tensor's gate) and of the tensors.
std::vector<int64_t> gates_shape(const Readout& readout) {
  if (!readout.layers.empty()) return {readout.n_gates, readout.last_width + 1};
  return {1, (readout.isotropic ? readout.n_scalars : 0) + readout.n_tensors()};
}

// Both as gates on the last layer and a 1 behind it; tensors are divided by their size.
void put_gates(const std::vector<double>& from, const std::vector<double>& size, double step, Readout& readout) {
  const int64_t row = readout.last_width + 1;
  double* to = readout.weights.data() + readout.last;
  size_t next = 0;
  for (int64_t k = 0; k < readout.n_gates; k++) {
    const bool unit = readout.isotropic && !k;
    const double factor = unit ? step : step / size[k - readout.isotropic];
    for (int64_t i = 0; i < row; i++) {
      const bool there = !readout.layers.empty() || (unit ? i + 1 < row : i + 1 == row);
      to[k * row + i] = there ? from[next++] * factor : 0.0;
    }
  }
}

// n_outputs: of the head's table: invariants, and for a tensor the components of covariants behind them.
Readout read_head(const Tensors& tensors, const Json& spec, int64_t n_outputs, int64_t n_species) {
  const std::string name = "heads." + spec.at("name").string() + ".", kind = spec.at("kind").string();
  const int64_t components = kind == "dipole" ? 3 : kind == "polarizability" ? 6 : 0;
  if (!components && kind != "energy") fail("a head of unknown kind '" + kind + "'");
  std::vector<double> size;
  if (components) size = tensors.real(name + "size", {tensors.length(name + "size")});
  const int64_t n_tensors = int64_t(size.size()), n_scalars = n_outputs - n_tensors * components;
  if (n_scalars < 0) fail("tensor " + name + "size is longer than its table");
  const std::vector<int64_t> hidden = spec.at("hidden").integers();
  const bool embedded = spec.at("embedded").boolean() && !hidden.empty();
  Readout readout = make_readout(n_scalars, int64_t(hidden.size()), hidden.data(),
                                 spec.at("activation").string().c_str(), spec.at("timestep").boolean(),
                                 embedded ? n_species : 1);
  readout.components = components;
  readout.isotropic = components == 6;
  readout.n_gates = components ? n_tensors + readout.isotropic : 0;
  if (readout.n_weights() / (n_tensors + 1) > tensors.size())
    fail("its header has wider layers than its tensors");
  readout.weights.assign(readout.n_weights(), 0.0);
  readout.mean.assign(n_scalars, 0.0);
  const double step = tensors.real(name + "step", {})[0];
  auto put = [&](const std::string& tensor, const std::vector<int64_t>& shape, int64_t at) {
    for (double weight : tensors.real(name + tensor, shape)) readout.weights[at++] = weight * step;
  };
  for (size_t k = 0; k < readout.layers.size(); k++) {
    const DenseLayer& layer = readout.layers[k];
    const std::string own = "layers." + std::to_string(k) + ".";
    put(own + "weight", {layer.n_out, layer.n_in}, layer.weight);
    for (int64_t row = 0; row < (k ? 1 : readout.n_biases); row++)
      put(own + "bias", {layer.n_out}, layer.bias + row * layer.n_out);
    if (layer.timestep >= 0) put(own + "timestep", {layer.n_out}, layer.timestep);
  }
  if (components)
    put_gates(tensors.real(name + "last.weight", gates_shape(readout)), size, step, readout);
  else
    put("last.weight", {1, readout.last_width}, readout.last);
  if (embedded) {  // added to the biases of the first layer
    int64_t at = readout.layers[0].bias;
    for (double bias : tensors.real(name + "species_bias", {n_species, hidden[0]}))
      readout.weights[at++] += bias * step;
  }
  readout.scale = tensors.real(name + "scale", {})[0];
  const std::vector<double> mean = tensors.real(name + "mean", {n_scalars});
  if (!hidden.empty()) readout.mean = mean;
  for (double std : tensors.real(name + "std", {n_scalars})) readout.inverse_std.push_back(1 / std);
  return readout;
}

struct Table {
  Plan plan;
  int64_t n_outputs;
};

// The moment table whose tensors begin with `prefix`.
Table read_table(const Tensors& tensors, const Json& spec, const std::string& prefix, int64_t n_moments) {
  const std::vector<int64_t> basic = tensors.integers(prefix + "basic", 4);
  const std::vector<int64_t> products = tensors.integers(prefix + "products", 4);
  const std::vector<int64_t> scalars = tensors.integers(prefix + "scalars", 0);
  const int64_t n_basic = int64_t(basic.size() / 4), n_products = int64_t(products.size() / 4);
  const int64_t n_outputs = int64_t(scalars.size());
  if (n_moments > n_basic + n_products) fail("n_moments is larger than its table");
  return {make_plan(n_basic, basic.data(), n_products, products.data(), n_outputs, scalars.data(), n_moments,
                    spec.at("min_dist").number(), spec.at("cutoff").number(), spec.at("n_q").integer()),
          n_outputs};
}

// Coefficients of the radial functions that the plan has; a table of another head may have more.
std::vector<double> read_coefficients(const Tensors& tensors, const Plan& plan, int64_t n_species) {
  const std::vector<int64_t> shape = tensors.shape("radial");
  if (shape.size() != 4 || shape[2] < plan.n_radial) fail("tensor radial has a wrong shape");
  const std::vector<double> radial = tensors.real("radial", {n_species, n_species, shape[2], plan.n_q});
  const std::vector<double> scale = tensors.real("radial_scale", {plan.n_q});
  const size_t mine = size_t(plan.n_radial) * plan.n_q, all = size_t(shape[2]) * plan.n_q;
  std::vector<double> c;
  for (size_t i = 0; i < radial.size(); i++)
    if (i % all < mine) c.push_back(radial[i] * scale[i % plan.n_q]);
  return c;
}

std::unique_ptr<mtp_model> build(const Tensors& tensors, const Json& header, size_t index) {
  const Json& spec = header.at("spec");
  const Json& chosen = spec.at("heads").array()[index];
  const std::string head = chosen.at("name").string();
  const Json* own = header.find("head_moments");
  const Json* n_moments = own ? own->find(head) : nullptr;  // of a table that the head has for itself
  const Table table = read_table(tensors, spec, n_moments ? "tables." + head + "." : "table.",
                                 (n_moments ? *n_moments : header.at("n_moments")).integer());
  auto model = std::make_unique<mtp_model>();
  model->plan = table.plan;
  model->atomic_numbers = spec.at("species").integers();
  const int64_t n = int64_t(model->atomic_numbers.size());
  model->readout = read_head(tensors, chosen, table.n_outputs, n);
  std::vector<double> shifts(n, 0.0);
  if (!model->readout.components || model->readout.isotropic)
    shifts = tensors.real("heads." + head + ".shifts", {n});
  model->set(n, read_coefficients(tensors, table.plan, n).data(), shifts.data());
  const std::vector<int64_t> only = chosen.at("species").integers();
  for (int64_t number : model->atomic_numbers)
    model->selected.push_back(only.empty() || std::count(only.begin(), only.end(), number));
  if (tensors.has("grade.neighbourhood") && !model->readout.components) {
    const int64_t n_scalars = table.n_outputs;
    const std::vector<double> mean = tensors.real("grade.mean", {n, n_scalars}),
                              inverse_std = tensors.real("grade.inverse_std", {n, n_scalars}),
                              inverse = tensors.real("grade.neighbourhood", {n, n_scalars, n_scalars});
    model->grading = make_grading(n, n_scalars, mean.data(), inverse_std.data(), inverse.data());
  }
  return model;
}

Tensors open(const std::string& path) {
  std::string content = read_bytes(path);
  try {
    return Tensors(std::move(content));
  } catch (const std::runtime_error&) {
    fail(path + ": not a model file of mtp-train (expected safetensors, as best.mtp.safetensors)");
  }
}

}  // namespace

std::unique_ptr<mtp_model> load_model(const char* path, const char* head) {
  if (!path) fail("no path of a model file was given");
  const std::string file = path;
  const Tensors tensors = open(file);
  const Json* metadata = tensors.header().find("__metadata__");
  const Json* ours = metadata ? metadata->find("mtp") : nullptr;
  if (!ours)
    fail(file + ": a safetensors file, but not a model of mtp-train (its header has no 'mtp')");
  const std::string damaged = file + ": damaged model file: ";
  Json header;
  int64_t format;
  std::vector<std::string> heads;
  try {
    header = JsonReader::read(ours->string());
    format = header.at("format").integer();
    if (format == kFormat)
      for (const Json& one : header.at("spec").at("heads").array())
        heads.push_back(one.at("name").string());
  } catch (const std::runtime_error& error) {
    fail(damaged + error.what());
  }
  if (format != kFormat)
    fail(file + ": model format " + std::to_string(format) + ", but this library reads format " +
         std::to_string(kFormat));
  const size_t chosen = choose_head(heads, head);
  try {
    return build(tensors, header, chosen);
  } catch (const std::runtime_error& error) {
    fail(damaged + error.what());
  }
}

}  // namespace mtp
