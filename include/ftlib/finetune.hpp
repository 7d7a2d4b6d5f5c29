// finetune.hpp: all of ftlib in one include.
#pragma once
#include <ftlib/image/flow_data.hpp>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/ops/softmax.hpp>
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/dataset.hpp>
#include <ftlib/text/evaluate.hpp>
#include <ftlib/text/records.hpp>
#include <ftlib/text/text_encoder.hpp>
#include <ftlib/train/screen/plot.hpp>
#include <ftlib/train/screen/progress.hpp>
#include <ftlib/train/screen/tensorboard.hpp>
#include <ftlib/train/trainer.hpp>
#if FTLIB_WITH_CUDA
#include <ftlib/cuda_runtime.cuda.cuh>
#endif
