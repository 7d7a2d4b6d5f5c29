/* tests/c_api/program.c: a C program that uses the C API: opens, trains, asks, and hears why a call failed. */
#include <ftlib/ftlib.h>

#include <stdio.h>
#include <string.h>

static int failures = 0;
static void expect(int holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s: %s\n", what, ft_last_error());
  ++failures;
}

static int on_step(const ft_step* step, void* user) {
  expect(step->size == sizeof *step && step->steps == 3 && step->lr >= 0 && !step->skipped, "ft_step");
  ++*(int*)user;
  return 0;
}

int main(int argc, char** argv) {
  ft_session* lm = NULL;
  ft_records* records = NULL;
  char* answer = NULL;
  int steps = 0;
  if (argc < 2) return 2;
  expect(ft_open("no such model", NULL, &lm) == FT_BAD_FILE && lm == NULL, "a missing file");
  expect(strstr(ft_last_error(), "no such model") != NULL, "its message");
  expect(ft_open(argv[1], "{\"threads\": 1}", &lm) == FT_OK, "ft_open");
  expect(ft_attach(lm, "default", "{\"rank\": 4}") == FT_OK, "ft_attach");
  expect(ft_parse_records("{\"question\": \"Who?\", \"answer\": \"Me\"}", &records) == FT_OK, "ft_parse_records");
  expect(ft_train(lm, records, "{\"epochs\": 3}", on_step, &steps, NULL) == FT_OK && steps == 3, "ft_train");
  expect(ft_ask(lm, "Who?", "{\"max_new_tokens\": 8}", NULL, NULL, &answer) == FT_OK, "ft_ask");
  printf("ftlib %s: %s\n", ft_version(), answer ? answer : "");
  ft_free(answer);
  ft_free_records(records);
  ft_close(lm);
  return failures;
}
