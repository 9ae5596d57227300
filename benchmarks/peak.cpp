// Peak rate of fused multiply-adds of one core: independent chains that stay in registers.
// Usage: peak SECONDS; prints multiply-adds per second of float64 and of float32.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#else
constexpr int kBytes = 16, kChains = 12;
#endif

template <class S>
double rate(double wanted) {
  typedef S Vector __attribute__((vector_size(kBytes)));
  constexpr int lanes = kBytes / sizeof(S);
  Vector sum[kChains], a, b;
  for (int l = 0; l < lanes; l++) a[l] = S(0.9999), b[l] = S(1e-9);
  for (int k = 0; k < kChains; k++) sum[k] = b;
  const long block = 1 << 20;
  long blocks = 0;
  const auto begin = std::chrono::steady_clock::now();
  double seconds = 0;
  while (seconds < wanted) {
    for (long i = 0; i < block; i++)
#pragma GCC unroll 32
      for (int k = 0; k < kChains; k++) sum[k] = sum[k] * a + b;
    blocks++;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  Vector total = sum[0];
  for (int k = 1; k < kChains; k++) total += sum[k];
  volatile S keep = total[0];  // the sums must not be optimised away
  (void)keep;
  return double(blocks) * block * kChains * lanes / seconds;
}

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  std::printf("%.6e %.6e\n", rate<double>(seconds), rate<float>(seconds));
}
