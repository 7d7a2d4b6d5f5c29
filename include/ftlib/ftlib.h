/* ftlib.h: the C API: open a model, ask it, train it, keep its adapters; for C and for every language that calls C.
 *
 * Link libftlib (CMake: ftlib::c; pkg-config: ftlib-c). It computes on the CPU, in float. docs/c_api.md shows it from
 * Python.
 *
 * Rules of all calls:
 * - A call returns FT_OK or what went wrong; then ft_last_error() has the message, and what it was asked to change is
 *   as it was before, if nothing else is said. What the caller should know of a call that went well (records left out,
 *   say) is in ft_last_notes().
 * - Text is UTF-8 with a 0 at its end. Options are a JSON object, NULL or "" for none; a key that is not known is
 *   FT_BAD_ARGUMENT. A char** or void** that a call fills is for ft_free(); where it may be NULL, the call says so.
 * - A session serves one thread at a time, and says so where another comes meanwhile; only ft_cancel() may be called
 *   from any. Sessions of one model work side by side. Callbacks run on the calling thread; they may call the session,
 *   but not close it. One that returns another number than 0 ends the call in order, with FT_CANCELLED. */
#ifndef FTLIB_FTLIB_H
#define FTLIB_FTLIB_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FTLIB_API __attribute__((visibility("default")))
#else
#define FTLIB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call came to, by what the caller can do about it. */
typedef enum ft_status {
  FT_OK = 0,
  FT_BAD_ARGUMENT = 1, /* what was asked for makes no sense, or does not fit the model */
  FT_BAD_FILE = 2,     /* a file is missing, damaged, of another kind, or cannot be read or written */
  FT_NO_MEMORY = 3,    /* of the system, or of the session's memory_limit */
  FT_NO_SPACE = 4,     /* the disk is full, or a quota is reached */
  FT_CANCELLED = 5,    /* a callback or ft_cancel() asked for it; what was done until then is kept */
  FT_OTHER = 6         /* no threads to be had, a training that diverged */
} ft_status;

/* A session on a model: its own threads, memory and choice of adapters, over weights and adapters that all sessions of
 * the model share. */
typedef struct ft_session ft_session;
/* Records: questions with answers, or conversations. Any number of threads may read them. */
typedef struct ft_records ft_records;

/* A finished step of a training. The library fills all it knows; later versions add members at the end, and `size` says
 * how many bytes there are. */
typedef struct ft_step {
  size_t size;              /* bytes of this struct */
  int64_t step, steps;      /* this one, from 1; and how many there will be */
  double loss;              /* mean over its learned tokens */
  double held_out_loss;     /* the latest; NaN while there is none */
  double lr, grad_norm;     /* the norm before clipping */
  double tokens_per_second; /* since the call began */
  int64_t tokens;           /* of this step */
  int64_t memory;           /* bytes of the process */
  int32_t skipped;          /* 1: loss or gradient was not finite, and nothing was changed */
} ft_step;

/* Another number than 0 ends what runs. */
typedef int (*ft_on_step)(const ft_step* step, void* user);
typedef int (*ft_on_text)(const char* piece, void* user);
typedef int (*ft_on_progress)(int64_t done, int64_t of, void* user);

/* --- the library --------------------------------------------------------------------------------------------------- */

/* "0.1.0" */
FTLIB_API const char* ft_version(void);
/* What the last call of this thread that failed had to say, with a hint; until its next call. */
FTLIB_API const char* ft_last_error(void);
/* What the last call of this thread had to tell, a sentence a line, mostly none; until its next call. */
FTLIB_API const char* ft_last_notes(void);
/* Gives back what a call has filled in; NULL is fine. */
FTLIB_API void ft_free(void* memory);

/* --- sessions ------------------------------------------------------------------------------------------------------ */

/* Opens a Hugging Face folder or a GGUF file. Options: "threads" (0: one for each core), "memory_limit" (bytes; 0:
 * none), "seed" (of dropout). */
FTLIB_API ft_status ft_open(const char* path, const char* options, ft_session** session);
/* Another session on the same model, of the same form of asking, in which no adapter is in use. Options as ft_open's.
 * Not while base weights are trained. */
FTLIB_API ft_status ft_open_session(ft_session* of, const char* options, ft_session** session);
/* Weights and adapters go with their last session. NULL is fine. Not while a call runs in it. */
FTLIB_API void ft_close(ft_session* session);
/* Parameters, types and bytes, in words. */
FTLIB_API ft_status ft_summary(ft_session* session, char** text);
/* Ends, as soon as it can be done in order, the call that runs in the session, which returns FT_CANCELLED; returns 1.
 * 0 where none runs, and nothing happens then. From any thread. */
FTLIB_API int ft_cancel(ft_session* session);
/* How the model is asked and trained: "form" ("question_answer" or "chat", by the model's own template), "thinking",
 * "stop" (a list of strings), "variables", "date", "unknown" (the answer where it does not know), "sure" (how sure it must
 * be of another, 0 to 1, while an adapter is in use), "near" (how near a question must lie to those that its answer was
 * learned for, 0 to 1, with ft_remember_questions()); what is not named stays. An adapter that is saved keeps it, and
 * brings it along when it is loaded. */
FTLIB_API ft_status ft_set_prompt(ft_session* session, const char* options);

/* --- asking -------------------------------------------------------------------------------------------------------- */

/* These three share their options: "max_new_tokens" (128), "temperature" (0: the likeliest), "top_k", "top_p", "min_p",
 * "repetition_penalty", "stop" (a list of strings), "seed". `on_text` hears the answer piece by piece, whole characters
 * each, and `answer` gets all of it, also where it was cancelled; either may be NULL. */

/* Goes on from a text as it stands. */
FTLIB_API ft_status ft_generate(ft_session* session, const char* text, const char* options, ft_on_text on_text,
                                void* user, char** answer);
/* Asks in the session's form; the answer has no blanks before it. */
FTLIB_API ft_status ft_ask(ft_session* session, const char* question, const char* options, ft_on_text on_text,
                           void* user, char** answer);
/* The same for the last turn of a conversation: a JSON list of {"role": ..., "content": ...}, roles being "user",
 * "assistant" and, in the form "chat", "system". */
FTLIB_API ft_status ft_chat(ft_session* session, const char* messages, const char* options, ft_on_text on_text,
                            void* user, char** answer);

/* --- adapters ------------------------------------------------------------------------------------------------------ */

/* Hangs a new adapter over the frozen model, in use from now on and trained by ft_train(). Options: "kind" ("lora",
 * "dora"), "rank" (16), "alpha" (32), "rslora", "dropout", "targets" ("all", or a list of module names), "seed",
 * "modules_to_save" (a list), "rank_pattern" and "alpha_pattern" (by module). */
FTLIB_API ft_status ft_attach(ft_session* session, const char* name, const char* options);
/* What this session uses from now on: an adapter, or (NULL) the base alone. Takes microseconds. */
FTLIB_API ft_status ft_use(ft_session* session, const char* name);
/* A sum of several: {"tenant": 0.7, "tone": 0.3}. */
FTLIB_API ft_status ft_use_sum(ft_session* session, const char* strengths);
/* A JSON list of the model's adapters. */
FTLIB_API ft_status ft_adapter_names(ft_session* session, char** names);
/* A frozen copy as the adapter now is, under another name, for other sessions to use; with a share below 1, nearer to
 * the base. */
FTLIB_API ft_status ft_copy_adapter(ft_session* session, const char* from, const char* to, float share);
/* This session trains none any longer: what it trained may be used by others. */
FTLIB_API ft_status ft_freeze_adapters(ft_session* session);
/* Forgets a name. Sessions that use the adapter keep it until they use another. */
FTLIB_API ft_status ft_remove_adapter(ft_session* session, const char* name);
/* Writes the adapter in use as a PEFT folder, whole or not at all. */
FTLIB_API ft_status ft_save_adapter(ft_session* session, const char* folder);
/* Reads a PEFT folder; the adapter is in use, and this session may train on. Notes tell of another base. */
FTLIB_API ft_status ft_load_adapter(ft_session* session, const char* name, const char* folder);
/* The same in memory: PEFT's two files, adapter_config.json and adapter_model.safetensors. */
FTLIB_API ft_status ft_adapter_to_bytes(ft_session* session, char** config, void** tensors, size_t* bytes);
FTLIB_API ft_status ft_adapter_from_bytes(ft_session* session, const char* name, const char* config,
                                          const void* tensors, size_t bytes);
/* Folds the adapters in use into the weights. The model's only session alone may do it. */
FTLIB_API ft_status ft_merge(ft_session* session);
/* Every weight learns from now on, and no adapter is in use. The model's only session alone may do it. */
FTLIB_API ft_status ft_train_all(ft_session* session);

/* --- records, training, evaluation --------------------------------------------------------------------------------- */

/* Reads a JSON lines file: {"question": ..., "answer": ...} or {"messages": [...]} a line; "split" says what a record
 * is for. Lines that cannot be used are left out, and counted in the notes. */
FTLIB_API ft_status ft_read_records(const char* path, ft_records** records);
/* The same from memory. */
FTLIB_API ft_status ft_parse_records(const char* lines, ft_records** records);
FTLIB_API int64_t ft_count_records(const ft_records* records);
FTLIB_API void ft_free_records(ft_records* records);

/* Trains what the session has that learns, on the records of split "train" or of none; those of "valid" are held out
 * and looked at. Notes count what is neither, what is left out (longer than "max_tokens", say), and answers that will be
 * cut where they hold what ends one.
 * Options: "epochs" (3), "max_steps" (0: after the epochs), "lr" (5e-4), "optimizer" ("adamw", "adamw8bit", "lion"),
 * "weight_decay", "schedule" ("cosine", "linear", "constant"), "warmup" (0.03, a share of the steps), "batch_tokens"
 * (512), "micro_batch_tokens" (0: all of the batch), "max_tokens" (512), "loss_on" ("answer", "everything"),
 * "clip_norm" (1), "recompute", "seed" (42), "evaluate_every" (steps; 0: each epoch), "patience" (0: none), "out_dir"
 * (for checkpoint and logs; none: nothing is written), "save_every" (steps; 0: only where it is cancelled), "resume"
 * (go on from out_dir's checkpoint, where there is one).
 * `report` (may be NULL) gets a JSON object, also where it was cancelled: "steps", "finished", "stopped_early",
 * "examples", "best_loss" and "best_step" of the held-out records, "seconds", "tokens_per_second", "peak_bytes",
 * "train_loss" and "held_out_loss" as [step, loss] pairs. Cancelled, or where it fails between two steps, the session
 * keeps what it has learned so far; cancelled, out_dir has a checkpoint. */
FTLIB_API ft_status ft_train(ft_session* session, const ft_records* records, const char* options, ft_on_step on_step,
                             void* user, char** report);
/* Asks every record's question and scores the answers. Options: "split" (all), "batch" (64 questions side by side), and
 * ft_ask's with "max_new_tokens" (48). `report` gets a JSON object: "n", "exact_match", "strict_match", "f1",
 * "perplexity", and "answers", a list of {"id", "question", "answer", "exact", "f1", "confidence", "nearness"}: how sure
 * the model was, and how near the question lies to those that its answer was learned for, both 0 to 1. Notes tell
 * which records are in no figure. */
FTLIB_API ft_status ft_evaluate(ft_session* session, const ft_records* records, const char* options,
                                ft_on_progress on_progress, void* user, char** report);
/* Reads the records' questions as the model has learned them, for "near" in ft_set_prompt: call it after ft_train() with
 * the records that were trained. The adapter keeps what it needs of them when it is saved: states, and which tokens they
 * have. */
FTLIB_API ft_status ft_remember_questions(ft_session* session, const ft_records* records);
/* Writes the model as a Hugging Face folder in float32; adapters in use are merged into what is written, and stay adapters
 * here. */
FTLIB_API ft_status ft_save_model(ft_session* session, const char* folder);
/* Writes the model as a GGUF file for llama.cpp; adapters in use are merged into what is written, and stay adapters here.
 * `type`: "f32", "f16", "bf16", "q8_0", "q4_k_m" ... as docs/export.md lists them; NULL or "stored": each tensor as the
 * model has it. Notes tell what was written, and what GGUF has no word for. */
FTLIB_API ft_status ft_save_gguf(ft_session* session, const char* path, const char* type);

#ifdef __cplusplus
}
#endif

#endif
