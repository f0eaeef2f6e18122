// SPDX-License-Identifier: MIT
/* Contexts: what outlives one operation. */
#include "lib/api/ctx.h"

#include "lib/kernel/features.h"

#define STR(x) #x
#define VERSION(a, b, c) STR(a) "." STR(b) "." STR(c)

const char *ckpt_version(void)
{
	return VERSION(CKPT_VERSION_MAJOR, CKPT_VERSION_MINOR, CKPT_VERSION_PATCH);
}

int ckpt_ctx_new(struct ckpt_ctx **ret)
{
	struct ckpt_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return CKPT_E_NOMEM;
	atomic_init(&ctx->cancel, false);
	ctx->features = features_new();
	if (!ctx->features) {
		free(ctx);
		return CKPT_E_NOMEM;
	}
	*ret = ctx;
	return 0;
}

struct ckpt_ctx *ckpt_ctx_free(struct ckpt_ctx *ctx)
{
	if (ctx) {
		features_free(ctx->features);
		tracking_list_free(&ctx->trackings);
	}
	free(ctx);
	return NULL;
}

void ckpt_ctx_set_log(struct ckpt_ctx *ctx, enum ckpt_log_level level, ckpt_log_fn fn, void *arg)
{
	ctx->log = (struct log_sink){ .fn = fn, .arg = arg, .level = level };
}

void ckpt_ctx_set_progress(struct ckpt_ctx *ctx, ckpt_progress_fn fn, void *arg)
{
	ctx->progress = (struct progress_sink){ .fn = fn, .arg = arg };
}

void ckpt_ctx_set_events(struct ckpt_ctx *ctx, ckpt_event_fn fn, void *arg)
{
	ctx->events = (struct event_sink){ .fn = fn, .arg = arg };
}

void ckpt_cancel(struct ckpt_ctx *ctx)
{
	atomic_store_explicit(&ctx->cancel, true, memory_order_relaxed);
}

void ckpt_ctx_reset(struct ckpt_ctx *ctx)
{
	atomic_store_explicit(&ctx->cancel, false, memory_order_relaxed);
}
