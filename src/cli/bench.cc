// `weft bench`: measurements.
#include "cli/commands.h"

namespace weft {

void add_bench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure models, servers, operators and collectives");
  bench->require_subcommand(1);
  add_bench_op(*bench);
  add_bench_comm(*bench);
  add_bench_gpu(*bench);
  add_bench_gpu_layers(*bench);
  add_bench_model(*bench);
  add_bench_generate(*bench);
  add_bench_serve(*bench);
  add_bench_engine(*bench);
}

}  // namespace weft
