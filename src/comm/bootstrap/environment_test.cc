#include "comm/bootstrap/environment.h"

#include <gtest/gtest.h>

#include <map>

namespace weft {
namespace {

using Variables = std::map<std::string, std::string>;

Result<WorldSpec> spec_of(const Variables& variables) {
  return world_spec(
      [&](const char* name) {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
      },
      1000);
}

Variables with(Variables base, const Variables& more) {
  for (const auto& [name, value] : more) base[name] = value;
  return base;
}

const Variables kTorchrun = {{"RANK", "5"},
                             {"LOCAL_RANK", "1"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "10.0.0.1"},
                             {"MASTER_PORT", "29500"}};
const Variables kMpirun = {{"OMPI_COMM_WORLD_RANK", "3"},
                           {"OMPI_COMM_WORLD_SIZE", "4"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "3"},
                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                           {"PMIX_NAMESPACE", "1190199297"}};
const Variables kSlurm = {{"SLURM_PROCID", "1"},
                          {"SLURM_NTASKS", "2"},
                          {"SLURM_LOCALID", "1"},
                          {"SLURM_JOB_ID", "77"},
                          {"SLURM_STEP_ID", "0"}};
const Variables kNode = {{"NODE_RANK", "1"},
                         {"WORLD_SIZE", "4"},
                         {"WORLD_LOCAL_SIZE", "2"},
                         {"MASTER_ADDR", "node0"},
                         {"MASTER_PORT", "29500"}};

TEST(Environment, NoVariablesMeanNoWorld) {
  const auto spec = spec_of({{"MASTER_ADDR", "left over"}});
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->kind, WorldSpec::Kind::kAlone);
  EXPECT_EQ(spec->size, 1);
}

TEST(Environment, TorchrunKeepsItsPortOnOneHost) {
  const Variables run = {{"TORCHELASTIC_RUN_ID", "none"}, {"TORCHELASTIC_RESTART_COUNT", "1"}};
  const auto several = spec_of(with(kTorchrun, run));
  ASSERT_TRUE(several.ok()) << several.status().message();
  EXPECT_TRUE(several->rendezvous.is_tcp());
  const auto one = spec_of(with(with(kTorchrun, run), {{"LOCAL_WORLD_SIZE", "8"}, {"LOCAL_RANK", "5"}}));
  ASSERT_TRUE(one.ok()) << one.status().message();
  EXPECT_EQ(one->rendezvous.socket, "weft-1000-torchrun-none-29500-1");
  EXPECT_FALSE(one->rendezvous.is_tcp());
}

TEST(Environment, Torchrun) {
  const auto spec = spec_of(kTorchrun);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->kind, WorldSpec::Kind::kRank);
  EXPECT_EQ(spec->rank, 5);
  EXPECT_EQ(spec->size, 8);
  EXPECT_EQ(spec->local_rank, 1);
  EXPECT_EQ(spec->local_size, 4);
  EXPECT_EQ(spec->rendezvous.text(), "10.0.0.1:29500");
}

TEST(Environment, MpirunMeetsAtASocketNamedAfterUserAndJob) {
  const auto spec = spec_of(kMpirun);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->rank, 3);
  EXPECT_EQ(spec->size, 4);
  EXPECT_EQ(spec->rendezvous.text(), "unix socket @weft-1000-1190199297");
  EXPECT_NE(job_socket(1, "a"), job_socket(2, "a"));
  EXPECT_LT(job_socket(4000000000u, std::string(300, 'x')).size(), 107u);
}

TEST(Environment, Slurm) {
  const auto spec = spec_of(kSlurm);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->rank, 1);
  EXPECT_EQ(spec->size, 2);
  EXPECT_EQ(spec->rendezvous.socket, "weft-1000-slurm-77.0");
}

TEST(Environment, OneCommandPerNodeSpawnsItsRanks) {
  const auto spec = spec_of(kNode);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->kind, WorldSpec::Kind::kSpawn);
  EXPECT_EQ(spec->rank, 2);
  EXPECT_EQ(spec->local_size, 2);
  EXPECT_EQ(spec->size, 4);
  const auto alone = spec_of({{"NODE_RANK", "0"}, {"WORLD_SIZE", "2"}, {"WORLD_LOCAL_SIZE", "2"}});
  ASSERT_TRUE(alone.ok()) << alone.status().message();
  EXPECT_FALSE(alone->rendezvous.is_tcp());
}

TEST(Environment, TheInnerLauncherWins) {
  const auto spec = spec_of(with(kMpirun, {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"WEFT_JOB", "launch-1-2"}}));
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->size, 2);
  EXPECT_EQ(spec->job, "launch-1-2");
}

TEST(Environment, OneRankNeedsNoMeetingPlace) {
  const auto spec = spec_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->kind, WorldSpec::Kind::kRank);
}

TEST(Environment, ErrorsNameTheVariableAndItsValue) {
  const struct {
    Variables variables;
    const char* message;
  } cases[] = {
      {with(kTorchrun, {{"RANK", "two"}}), "RANK='two': expected a number from 0 to 4095"},
      {with(kTorchrun, {{"RANK", ""}}), "RANK=''"},
      {with(kTorchrun, {{"RANK", "-1"}}), "RANK='-1'"},
      {with(kTorchrun, {{"RANK", "1 "}}), "RANK='1 '"},
      {with(kTorchrun, {{"RANK", "99999999999999999999"}}), "RANK='99999999999999999999'"},
      {with(kTorchrun, {{"RANK", "8"}}), "RANK=8 is not below WORLD_SIZE=8"},
      {with(kTorchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE='0'"},
      {with(kTorchrun, {{"LOCAL_RANK", "4"}}), "LOCAL_RANK=4 is not below LOCAL_WORLD_SIZE=4"},
      {with(kTorchrun, {{"WORLD_LOCAL_SIZE", "9"}}), "WORLD_LOCAL_SIZE=8 is not below WORLD_SIZE=8"},
      {with(kTorchrun, {{"MASTER_PORT", "65536"}}), "MASTER_PORT='65536': expected a number from 1 to 65535"},
      {with(kTorchrun, {{"MASTER_PORT", "http"}}), "MASTER_PORT='http'"},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}), "MASTER_ADDR=''"},
      {{{"RANK", "0"}}, "RANK is set but WORLD_SIZE is not"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "set MASTER_ADDR and MASTER_PORT"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}, "MASTER_ADDR='a' is set but MASTER_PORT is not"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}}, "MASTER_PORT=1 is set but MASTER_ADDR is not"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"WORLD_LOCAL_SIZE", "2"}, {"WEFT_JOB", "j"}},
       "on several hosts need MASTER_ADDR"},
      {with(kMpirun, {{"WORLD_SIZE", "8"}}), "WORLD_SIZE=8 contradicts OMPI_COMM_WORLD_SIZE=4"},
      {with(kSlurm, {{"SLURM_NTASKS", "x"}}), "SLURM_NTASKS='x'"},
      {with(kSlurm, {{"SLURM_NNODES", "2"}}), "on several hosts need MASTER_ADDR"},
      {with(kNode, {{"NODE_RANK", "2"}}), "NODE_RANK=2 is not below the number of nodes"},
      {with(kNode, {{"WORLD_LOCAL_SIZE", "3"}}), "WORLD_SIZE=4 is not a multiple of WORLD_LOCAL_SIZE=3"},
      {{{"NODE_RANK", "0"}, {"WORLD_SIZE", "2"}}, "NODE_RANK is set but WORLD_LOCAL_SIZE is not"},
      {{{"WORLD_SIZE", "2"}}, "WORLD_SIZE=2 is set but neither RANK nor NODE_RANK is"},
  };
  for (const auto& [variables, message] : cases) {
    const auto spec = spec_of(variables);
    ASSERT_FALSE(spec.ok()) << message;
    EXPECT_EQ(spec.status().code(), Code::kInvalidArgument);
    EXPECT_NE(spec.status().message().find(message), std::string::npos) << spec.status().message();
  }
}

}  // namespace
}  // namespace weft
