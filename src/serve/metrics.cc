#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <sstream>

namespace weft {
namespace {

using prometheus::Histogram;

prometheus::MetricFamily family(const char* name, const char* help, prometheus::MetricType type, double value,
                                const std::string& model) {
  prometheus::ClientMetric metric;
  metric.label.push_back({"model_name", model});
  (type == prometheus::MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  return {name, help, type, {metric}};
}

// The engine counts for itself; a scrape reads its counters.
std::vector<prometheus::MetricFamily> engine_families(const EngineStats& stats, const std::string& model) {
  constexpr auto kGauge = prometheus::MetricType::Gauge;
  constexpr auto kCounter = prometheus::MetricType::Counter;
  const double pages = std::max<double>(1, double(stats.kv_pages_total));
  return {
      family("weft_num_requests_running", "Answers being generated", kGauge, double(stats.running), model),
      family("weft_num_requests_waiting", "Answers that wait to run", kGauge, double(stats.waiting), model),
      family("weft_queued_prompt_tokens", "Prompt tokens that wait", kGauge, double(stats.queued_prompt_tokens), model),
      family("weft_kv_cache_usage_perc", "Share of KV pages in use, 0 to 1", kGauge,
             double(stats.kv_pages_used) / pages, model),
      family("weft_kv_cache_pages", "KV pages in all", kGauge, double(stats.kv_pages_total), model),
      family("weft_kv_cache_pages_used", "KV pages of running answers", kGauge, double(stats.kv_pages_used), model),
      family("weft_kv_cache_pages_cached", "KV pages kept for prefixes", kGauge, double(stats.kv_pages_cached), model),
      family("weft_prefix_cache_queries_total", "Prompt tokens looked up", kCounter, double(stats.prefix_queries),
             model),
      family("weft_prefix_cache_hits_total", "Prompt tokens found", kCounter, double(stats.prefix_hits), model),
      family("weft_prompt_tokens_total", "Prompt tokens", kCounter, double(stats.prompt_tokens), model),
      family("weft_generation_tokens_total", "Generated tokens", kCounter, double(stats.generation_tokens), model),
      family("weft_num_preemptions_total", "Answers put off for want of pages", kCounter, double(stats.preemptions),
             model),
      family("weft_engine_steps_total", "Steps of the model", kCounter, double(stats.steps), model),
      family("weft_engine_step_seconds_total", "Time in steps", kCounter, stats.step_s, model),
      family("weft_engine_schedule_seconds_total", "Time of planning", kCounter, stats.schedule_s, model),
      family("weft_requests_refused_total", "Requests refused by a full queue", kCounter, double(stats.refused), model),
      family("weft_spec_decode_drafted_tokens_total", "Drafted tokens", kCounter, double(stats.drafted_tokens), model),
      family("weft_spec_decode_accepted_tokens_total", "Accepted drafts", kCounter, double(stats.accepted_tokens),
             model),
  };
}

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;
  std::string model;
  std::function<EngineStats()> stats;
  Histogram *first_token, *token_gap, *end_to_end, *queue;
  prometheus::Family<prometheus::Counter>*success, *http;
  prometheus::Counter* restarts;
  prometheus::Gauge* connections;

  Histogram* histogram(const char* name, const char* help, const Histogram::BucketBoundaries& bounds) {
    return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({{"model_name", model}}, bounds);
  }
};

Metrics::Metrics(std::string model, std::function<EngineStats()> stats) : families_(std::make_unique<Families>()) {
  Families& f = *families_;
  f.model = std::move(model);
  f.stats = std::move(stats);
  const Histogram::BucketBoundaries waits = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                             0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80,   160};
  const Histogram::BucketBoundaries gaps = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04,
                                            0.05,   0.075, 0.1,    0.15,  0.2,  0.3,   0.4,  0.5,   1,    2.5};
  f.first_token = f.histogram("weft_time_to_first_token_seconds", "From the request to its first token", waits);
  f.token_gap = f.histogram("weft_inter_token_latency_seconds", "Between two tokens of an answer", gaps);
  f.end_to_end = f.histogram("weft_e2e_request_latency_seconds", "From the request to the end of its answer", waits);
  f.queue = f.histogram("weft_request_queue_time_seconds", "From the request to its first step", waits);
  f.success = &prometheus::BuildCounter()
                   .Name("weft_request_success_total")
                   .Help("Answers by how they ended")
                   .Register(f.registry);
  f.http = &prometheus::BuildCounter().Name("weft_http_requests_total").Help("By status").Register(f.registry);
  f.restarts = &prometheus::BuildCounter()
                    .Name("weft_worker_restarts_total")
                    .Help("Times that the ranks were started again")
                    .Register(f.registry)
                    .Add({});
  f.connections =
      &prometheus::BuildGauge().Name("weft_http_connections").Help("Open connections").Register(f.registry).Add({});
  for (const char* reason : {"stop", "length", "tool_calls", "abort", "error"}) {
    f.success->Add({{"model_name", f.model}, {"finished_reason", reason}});
  }
}
Metrics::~Metrics() = default;

void Metrics::observe_first_token(double seconds) {
  families_->first_token->Observe(seconds);
}
void Metrics::observe_token_gap(double seconds) {
  families_->token_gap->Observe(seconds);
}
void Metrics::observe_end(double seconds, double queue_seconds) {
  families_->end_to_end->Observe(seconds);
  families_->queue->Observe(queue_seconds);
}
void Metrics::count_success(const std::string& finished_reason) {
  families_->success->Add({{"model_name", families_->model}, {"finished_reason", finished_reason}}).Increment();
}
void Metrics::count_http(int status) {
  families_->http->Add({{"status", std::to_string(status)}}).Increment();
}
void Metrics::count_restart() {
  families_->restarts->Increment();
}
void Metrics::set_connections(double count) {
  families_->connections->Set(count);
}

std::string Metrics::text() const {
  auto all = families_->registry.Collect();
  for (auto& each : engine_families(families_->stats(), families_->model)) all.push_back(std::move(each));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, all);
  return out.str();
}

}  // namespace weft
