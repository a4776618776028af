// The commands of `weft`, one file each: add_<command>(app) declares its flags and what it does.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/status.h"

namespace weft {

// Ends a command: nothing on success, else "weft: <message>" on stderr and exit status 1.
inline void finish(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "weft: %s\n", status.message().c_str());
  throw CLI::RuntimeError(1);
}

void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_fetch(CLI::App& app);
void add_info(CLI::App& app);
void add_models(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_check(CLI::App& app);
void add_launch(CLI::App& app);
void add_bench(CLI::App& app);
void add_bench_op(CLI::App& bench);
void add_bench_comm(CLI::App& bench);
void add_bench_gpu(CLI::App& bench);
void add_bench_gpu_layers(CLI::App& bench);
void add_check_gpu_layers(CLI::App& check);  // called by add_check
void add_bench_model(CLI::App& bench);
void add_bench_generate(CLI::App& bench);
void add_bench_serve(CLI::App& bench);
void add_bench_engine(CLI::App& bench);
void add_bench_attention(CLI::App& op);     // called by add_bench_op
void add_bench_rows(CLI::App& op);          // called by add_bench_op
void add_bench_grouped_gemm(CLI::App& op);  // called by add_bench_op
void add_selftest(CLI::App& app);
void add_serve(CLI::App& app);
void add_serve_rank(CLI::App& app);  // hidden: what `weft serve` starts

}  // namespace weft
