// A model file (mtp/model_file.py) as a potential ready for inference. Everything in the file is
// checked: a damaged one is an error, never a crash.
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
    std::vector<int64_t> shape = entry_of(name).at("shape").integers();
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

Readout read_head(const Tensors& tensors, const Json& spec, int64_t n_scalars, int64_t n_species) {
  const std::string name = "heads." + spec.at("name").string() + ".";
  const std::vector<int64_t> hidden = spec.at("hidden").integers();
  const bool embedded = spec.at("embedded").boolean() && !hidden.empty();
  Readout readout = make_readout(n_scalars, int64_t(hidden.size()), hidden.data(),
                                 spec.at("activation").string().c_str(), spec.at("timestep").boolean(),
                                 embedded ? n_species : 1);
  if (readout.n_weights() > tensors.size()) fail("its header has wider layers than its tensors");
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

std::unique_ptr<mtp_model> build(const Tensors& tensors, const Json& header, size_t index) {
  const Json& spec = header.at("spec");
  const Json& chosen = spec.at("heads").array()[index];
  const std::string head = chosen.at("name").string();
  const int64_t n_q = spec.at("n_q").integer(), n_moments = header.at("n_moments").integer();
  const std::vector<int64_t> basic = tensors.integers("table.basic", 4);
  const std::vector<int64_t> products = tensors.integers("table.products", 4);
  const std::vector<int64_t> scalars = tensors.integers("table.scalars", 0);
  const int64_t n_basic = int64_t(basic.size() / 4), n_products = int64_t(products.size() / 4);
  if (n_moments > n_basic + n_products) fail("n_moments is larger than its table");
  auto model = std::make_unique<mtp_model>();
  model->plan = make_plan(n_basic, basic.data(), n_products, products.data(), int64_t(scalars.size()),
                          scalars.data(), n_moments, spec.at("min_dist").number(),
                          spec.at("cutoff").number(), n_q);
  model->atomic_numbers = spec.at("species").integers();
  const int64_t n = int64_t(model->atomic_numbers.size());
  model->readout = read_head(tensors, chosen, int64_t(scalars.size()), n);
  std::vector<double> c = tensors.real("radial", {n, n, model->plan.n_radial, n_q});
  const std::vector<double> scale = tensors.real("radial_scale", {n_q});
  for (size_t i = 0; i < c.size(); i++) c[i] *= scale[i % n_q];
  model->set(n, c.data(), tensors.real("heads." + head + ".shifts", {n}).data());
  if (tensors.has("grade.neighbourhood")) {
    const int64_t n_scalars = int64_t(scalars.size());
    const std::vector<double> mean = tensors.real("grade.mean", {n, n_scalars}),
                              inverse_std = tensors.real("grade.inverse_std", {n, n_scalars}),
                              inverse = tensors.real("grade.neighbourhood", {n, n_scalars, n_scalars});
    model->grading = Grading(n, n_scalars, mean.data(), inverse_std.data(), inverse.data());
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
