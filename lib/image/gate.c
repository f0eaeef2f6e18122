// SPDX-License-Identifier: MIT
/* Whose turn it is to write: the rules, and the waiting. See gate.h and docs/design/neighbours.md. */
#include "lib/image/gate.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "lib/image/gate_state.h"

#define MS 1000000ull
#define LISTEN_NS (20 * MS)	  /* then the one that is waited for is looked at more closely */
#define QUIET_WRITE_NS (250 * MS) /* a writer that shows no sign of life for so long is stuck, or stopped */
#define QUIET_COLLECT_NS (1000 * MS)
#define HOLD_COMMIT_NS (50 * MS)  /* so long others stop for a sync, at most */
#define PATIENCE_NS (1000 * MS)	  /* who waited so long has a turn, whoever else goes first */
#define TURN_BYTES (16ull << 20)
#define ADMIT_NS (20000 * MS)
#define AHEAD_BYTES (128ull << 20) /* left of others: about what they write while a tree is stopped and collected */
#define FAIR_BYTES (4ull << 20)	   /* so much one may be ahead of another */
#define PACE_SLICE_NS (50 * MS)
#define UNKNOWN (UINT64_MAX / 2) /* bytes left, until somebody has said it: after all others */

/* What we saw of another one: how long it has been quiet is by our own clock. */
struct glimpse {
	uint64_t beat, since;
};

struct gate {
	struct gate_state state;
	int index;		 /* of our slot; GATE_SLOTS without one */
	struct gate_slot *me;	 /* it, or `alone` */
	struct gate_slot alone;	 /* we see the others, and they do not see us */
	bool on, fair, crowded;
	uint64_t dev;
	uint64_t turn;		 /* bytes of a turn out of order that are left */
	uint64_t max, next_ns;	 /* io_max */
	struct glimpse seen[GATE_SLOTS];
};

/* ---- others */

static bool is_quiet(struct gate *g, int i, uint64_t now, uint64_t limit)
{
	uint64_t beat = atomic_load(&g->state.mem->slot[i].beat);
	struct glimpse *seen = &g->seen[i];

	if (seen->beat != beat || !seen->since) {
		*seen = (struct glimpse){ .beat = beat, .since = now };
		return false;
	}
	return now - seen->since > limit;
}

/* Frozen trees first; then who has least left; the number of the slot decides between equals. */
static bool goes_first(const struct gate *g, int i)
{
	const struct gate_slot *s = &g->state.mem->slot[i];
	bool frozen = atomic_load(&s->flags) & GATE_FROZEN, ours = atomic_load(&g->me->flags) & GATE_FROZEN;
	uint64_t left = atomic_load(&s->left), our_left = atomic_load(&g->me->left);

	if (frozen != ours)
		return frozen;
	if (left != our_left)
		return left < our_left;
	return i < g->index;
}

/* Each its share: nobody gets far ahead of another one that writes. */
static bool is_behind(const struct gate *g, int i)
{
	const struct gate_slot *s = &g->state.mem->slot[i];
	bool frozen = atomic_load(&s->flags) & GATE_FROZEN, ours = atomic_load(&g->me->flags) & GATE_FROZEN;

	if (frozen != ours)
		return frozen;
	return atomic_load(&s->served) + FAIR_BYTES < atomic_load(&g->me->served);
}

static bool takes_part(const struct gate *g, int i)
{
	const struct gate_slot *s = &g->state.mem->slot[i];

	return i != g->index && atomic_load(&s->phase) != GATE_FREE && atomic_load(&s->dev) == g->dev &&
	       !(atomic_load(&s->flags) & GATE_PACED);
}

/* The one that we have to wait for before we write, -1 for none. Sets whether we are crowded. */
static int look_to_write(struct gate *g, uint64_t now)
{
	int blocker = -1;

	g->crowded = false;
	for (int i = 0; i < GATE_SLOTS && blocker < 0; i++) {
		const struct gate_slot *s = &g->state.mem->slot[i];

		if (!takes_part(g, i))
			continue;
		switch (atomic_load(&s->phase)) {
		case GATE_WRITE:
			if (is_quiet(g, i, now, QUIET_WRITE_NS))
				break;
			g->crowded = g->crowded || g->fair;
			/* One that waits itself has nothing that we could disturb; and so no two wait for each other. */
			if (!(atomic_load(&s->flags) & GATE_WAITING) && (g->fair ? is_behind(g, i) : goes_first(g, i)))
				blocker = i;
			break;
		case GATE_COMMIT:
			if (goes_first(g, i) && !is_quiet(g, i, now, HOLD_COMMIT_NS))
				blocker = i;
			else if (!is_quiet(g, i, now, QUIET_COLLECT_NS))
				g->crowded = true;
			break;
		case GATE_COLLECT:
			if (goes_first(g, i) && !is_quiet(g, i, now, QUIET_COLLECT_NS))
				g->crowded = true;
			break;
		default:
			break;
		}
	}
	g->crowded = g->crowded || blocker >= 0;
	return blocker;
}

/* The same before a tree is stopped: one of those who have so much left that there is no hurry. */
static int look_to_begin(struct gate *g, uint64_t now)
{
	uint64_t ahead = 0;
	int last = -1;

	for (int i = 0; i < GATE_SLOTS; i++) {
		uint32_t phase;

		if (!takes_part(g, i))
			continue;
		phase = atomic_load(&g->state.mem->slot[i].phase);
		if (phase != GATE_QUEUED && phase != GATE_COLLECT && phase != GATE_WRITE)
			continue;
		if (!goes_first(g, i) || is_quiet(g, i, now, QUIET_COLLECT_NS))
			continue;
		ahead += MIN(atomic_load(&g->state.mem->slot[i].left), UINT64_MAX / (2 * GATE_SLOTS));
		last = i;
	}
	return ahead > AHEAD_BYTES ? last : -1;
}

/* ---- waiting */

static void live(struct gate *g)
{
	atomic_fetch_add(&g->me->beat, 1);
}

static void set_flag(struct gate *g, uint32_t flag, bool on)
{
	if (on)
		atomic_fetch_or(&g->me->flags, flag);
	else
		atomic_fetch_and(&g->me->flags, ~flag);
}

static void claim(struct gate *g)
{
	int i = gate_slot_claim(&g->state);

	if (i < 0)
		return;
	g->index = i;
	g->me = &g->state.mem->slot[i];
	atomic_store(&g->me->dev, g->dev);
	atomic_store(&g->me->left, atomic_load(&g->alone.left));
	atomic_store(&g->me->served, atomic_load(&g->alone.served));
	atomic_store(&g->me->flags, atomic_load(&g->alone.flags));
	atomic_store(&g->me->phase, atomic_load(&g->alone.phase)); /* last: from here on it counts */
}

typedef int (*look_fn)(struct gate *g, uint64_t now);

/* Waits until @look finds nobody. Returns NO_TURN when it still did at @until. */
#define NO_TURN 1
static int wait_turn(struct op *op, struct gate *g, look_fn look, uint64_t until)
{
	uint64_t begin = now_ns(), now = begin;
	int r;

	for (;;) {
		uint32_t seq = atomic_load(&g->state.mem->head.seq);
		int blocker = look(g, now);

		r = blocker >= 0 && now >= until ? NO_TURN : 0;
		if (blocker < 0 || r)
			break;
		op_waiting(op, true);
		set_flag(g, GATE_WAITING, true);
		live(g);
		r = op_check_cancel(op);
		if (r)
			break;
		gate_listen(&g->state, seq, LISTEN_NS);
		if (atomic_load(&g->state.mem->head.seq) == seq)
			gate_slot_reap(&g->state, blocker);
		if (g->index == GATE_SLOTS)
			claim(g);
		now = now_ns();
	}
	if (now != begin) {
		set_flag(g, GATE_WAITING, false);
		op_waiting(op, false);
		op->stats->waited_us += (now - begin) / 1000;
	}
	return r;
}

static int sleep_until(struct op *op, uint64_t when)
{
	uint64_t now;
	int r;

	while ((now = now_ns()) < when) {
		uint64_t ns = MIN(when - now, PACE_SLICE_NS);
		const struct timespec ts = { .tv_nsec = (long)ns };

		r = op_check_cancel(op);
		if (r)
			return r;
		nanosleep(&ts, NULL);
		op->stats->waited_us += (now_ns() - now) / 1000;
	}
	return 0;
}

/* ---- the interface */

/* Partitions of a disk are one disk. */
static uint64_t disk_of(dev_t dev)
{
	char path[64], text[32] = "";
	unsigned maj, min;
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(dev), minor(dev));
	if (access(path, F_OK) == 0) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../dev", major(dev), minor(dev));
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && sscanf(text, "%u:%u", &maj, &min) == 2)
		dev = makedev(maj, min);
	return dev;
}

int gate_open(struct op *op, int dirfd, struct gate **ret)
{
	return gate_open_at(op, dirfd, -1, ret);
}

static bool open_state(struct op *op, int dirfd, struct gate_state *st)
{
	return dirfd < 0 ? gate_state_open(op, st) : gate_state_open_at(op, dirfd, st);
}

int gate_open_at(struct op *op, int dirfd, int state_dirfd, struct gate **ret)
{
	struct gate *g = op_new(op, struct gate);
	struct stat st;

	if (!g)
		return CKPT_E_NOMEM;
	*ret = g;
	g->state = (struct gate_state)GATE_STATE_INIT;
	g->index = GATE_SLOTS;
	g->me = &g->alone;
	g->max = op->opts->io_max;
	g->fair = op->opts->io_policy == CKPT_IO_FAIR;
	atomic_store(&g->alone.left, UNKNOWN);
	atomic_store(&g->alone.phase, GATE_COLLECT);
	/* Taken for granted: who is about to be stopped counts as stopped, or it would be let in too late. */
	atomic_store(&g->alone.flags, GATE_FROZEN | (g->max ? GATE_PACED : 0));
	if (op->opts->io_policy == CKPT_IO_NONE || fstat(dirfd, &st) < 0 || !open_state(op, state_dirfd, &g->state))
		return 0;
	g->on = true;
	g->dev = disk_of(st.st_dev);
	claim(g);
	if (g->index == GATE_SLOTS)
		log_debug(op, "neighbours: all %d places are taken", GATE_SLOTS);
	return 0;
}

static void enter(struct gate *g, enum gate_phase phase)
{
	atomic_store(&g->me->phase, phase);
	live(g);
}

int gate_admit(struct op *op, struct gate *g, uint64_t bytes)
{
	uint64_t begin;
	int r;

	if (!g || !g->on)
		return 0;
	begin = now_ns();
	atomic_store(&g->me->left, bytes);
	enter(g, GATE_QUEUED);
	/* The one with a limit leaves most of the disk to others, and needs little of it. */
	r = g->max ? 0 : wait_turn(op, g, look_to_begin, begin + ADMIT_NS);
	enter(g, GATE_COLLECT);
	/* Nothing was stopped yet: that time is not what the deadline is for. */
	if (op->deadline_ns)
		op->deadline_ns += now_ns() - begin;
	return MIN(r, 0);
}

void gate_plan(struct gate *g, uint64_t bytes)
{
	if (g)
		atomic_store(&g->me->left, bytes);
}

void gate_at_least(struct gate *g, uint64_t bytes)
{
	uint64_t left = g ? atomic_load(&g->me->left) : 0;

	if (g && (left < bytes || left > UNKNOWN / 2))
		atomic_store(&g->me->left, bytes);
}

/* A newcomer starts where the others are, or it would have to catch up with what was written before it came. */
static void join(struct gate *g)
{
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < GATE_SLOTS; i++)
		if (takes_part(g, i) && atomic_load(&g->state.mem->slot[i].phase) == GATE_WRITE)
			least = MIN(least, atomic_load(&g->state.mem->slot[i].served));
	atomic_store(&g->me->served, least == UINT64_MAX ? 0 : least);
	enter(g, GATE_WRITE);
	gate_call(&g->state);
}

static int pass_in_turn(struct op *op, struct gate *g, uint64_t bytes)
{
	int r;

	if (g->turn >= bytes) {
		g->turn -= bytes;
		g->crowded = true;
		return 0;
	}
	r = wait_turn(op, g, look_to_write, now_ns() + PATIENCE_NS);
	g->turn = r == NO_TURN ? TURN_BYTES : 0;
	return MIN(r, 0);
}

/* A buffer goes when the time that the ones before it were worth is over. */
int gate_pace(struct op *op, struct gate *g, uint64_t bytes)
{
	int r;

	if (!g || !g->max)
		return 0;
	r = sleep_until(op, g->next_ns);
	g->next_ns = MAX(g->next_ns, now_ns()) + (uint64_t)((double)bytes * 1e9 / (double)g->max);
	return r;
}

int gate_pass(struct op *op, struct gate *g, uint64_t bytes)
{
	uint64_t left;
	int r;

	if (!g)
		return 0;
	if (g->on) {
		set_flag(g, GATE_FROZEN, op->moved.frozen);
		if (atomic_load(&g->me->phase) != GATE_WRITE)
			join(g);
		r = g->max ? 0 : pass_in_turn(op, g, bytes);
		if (r)
			return r;
	}
	r = gate_pace(op, g, bytes);
	left = atomic_load(&g->me->left);
	atomic_store(&g->me->left, left - MIN(left, bytes));
	atomic_fetch_add(&g->me->served, bytes);
	live(g);
	return r;
}

bool gate_crowded(const struct gate *g)
{
	return g && g->crowded;
}

void gate_commit(struct gate *g)
{
	if (!g || !g->on)
		return;
	atomic_store(&g->me->left, 0);
	enter(g, GATE_COMMIT);
	gate_call(&g->state);
}

struct gate *gate_close(struct gate *g)
{
	if (!g || !g->on)
		return NULL;
	if (g->index < GATE_SLOTS)
		gate_slot_release(&g->state, g->index);
	g->index = GATE_SLOTS;
	g->me = &g->alone;
	g->on = false;
	gate_state_close(&g->state);
	return NULL;
}
