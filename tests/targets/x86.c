// SPDX-License-Identifier: MIT
/* What only x86 processors have: a local descriptor table, the permission to use AMX. */
#include "target.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <immintrin.h>

#define ENTRY 700 /* not in the first piece that anybody reads */
#define SELECTOR (ENTRY << 3 | 7)

static uint32_t read_gs(void)
{
	uint32_t v;

	__asm__ volatile("movl %%gs:0, %0" : "=r"(v));
	return v;
}

static void ldt(void)
{
	static uint64_t before[1024], after[1024];
	uint32_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct user_desc u = { .entry_number = ENTRY, .limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1, .useable = 1 };
	struct user_desc code = { .entry_number = 3, .base_addr = 0x12345678, .limit = 0x54321, .contents = 2, .seg_32bit = 1,
				  .read_exec_only = 1, .seg_not_present = 1 };
	uint16_t gs = 0;

	CHECK(p != MAP_FAILED);
	*p = 0xfeedbeef;
	u.base_addr = (uint32_t)(uintptr_t)p;
	if (syscall(SYS_modify_ldt, 0x11, &u, sizeof(u)))
		SKIP("no modify_ldt: %s", strerror(errno));
	CHECK(!syscall(SYS_modify_ldt, 0x11, &code, sizeof(code)));
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)SELECTOR));
	CHECK(read_gs() == 0xfeedbeef);
	CHECK(syscall(SYS_modify_ldt, 0, before, sizeof(before)) == sizeof(before));
	t_wait();
	__asm__ volatile("movw %%gs, %0" : "=r"(gs));
	if (gs != SELECTOR)
		FAIL("gs is %#x", gs);
	CHECK(read_gs() == 0xfeedbeef);
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)0));
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)SELECTOR));
	CHECK(read_gs() == 0xfeedbeef);
	CHECK(syscall(SYS_modify_ldt, 0, after, sizeof(after)) == sizeof(after));
	CHECK(!memcmp(before, after, sizeof(before)));
}

static void amxperm(void)
{
	uint64_t before = 0, after = 0;

	if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18))
		SKIP("no AMX: %s", strerror(errno));
	CHECK(!syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &before) && before >> 18 & 1);
	t_wait();
	CHECK(!syscall(SYS_arch_prctl, 0x1022, &after) && after == before);
}

struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t bytes[16];
	uint8_t rows[16];
} __attribute__((packed));

#define TILES __attribute__((target("amx-tile"), noinline))

TILES static void load_tiles(const struct tile_config *c, const void *a, const void *b)
{
	_tile_loadconfig(c);
	_tile_loadd(0, a, 64);
	_tile_loadd(7, b, 64);
}

TILES static void store_tiles(struct tile_config *c, void *a, void *b)
{
	_tile_storeconfig(c);
	if (c->palette) {
		_tile_stored(0, a, 64);
		_tile_stored(7, b, 64);
	}
}

TILES static void load_config(const struct tile_config *c)
{
	_tile_loadconfig(c);
}

TILES static void release_tiles(void)
{
	_tile_release();
}

static const struct tile_config config = { .palette = 1, .bytes = { [0] = 64, [7] = 32 }, .rows = { [0] = 16, [7] = 8 } };
static volatile int there, go_on;

static void fill_tiles(uint64_t seed)
{
	uint8_t data[2][1024];

	t_fill(data[0], 1024, seed);
	t_fill(data[1], 1024, seed + 1);
	load_tiles(&config, data[0], data[1]);
}

static void check_tiles(uint64_t seed)
{
	uint8_t want[1024], got[2][1024] = { 0 };
	struct tile_config c = { 0 };

	store_tiles(&c, got[0], got[1]);
	CHECK(!memcmp(&c, &config, sizeof(c)));
	t_fill(want, 1024, seed);
	CHECK(!memcmp(got[0], want, 1024));
	t_fill(want, 1024, seed + 1);
	for (int row = 0; row < 8; row++)
		CHECK(!memcmp(got[1] + row * 64, want + row * 64, 32));
}

/* In the middle of its computation, so to speak. */
static void *computing(void *arg)
{
	fill_tiles(77);
	there = 1;
	while (!go_on)
		__asm__ volatile("pause");
	check_tiles(77);
	release_tiles();
	return arg;
}

static void *without(void *arg)
{
	struct tile_config c = { .palette = 9 };

	there = 2;
	t_await(&go_on);
	store_tiles(&c, NULL, NULL);
	CHECK(c.palette == 0);
	return arg;
}

static void amx(void)
{
	pthread_t t[2];

	if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18))
		SKIP("no AMX: %s", strerror(errno));
	CHECK(!pthread_create(&t[0], NULL, computing, NULL));
	while (there != 1)
		t_sleep_ms(1);
	CHECK(!pthread_create(&t[1], NULL, without, NULL));
	while (there != 2)
		t_sleep_ms(1);
	fill_tiles(5);
	t_wait();
	check_tiles(5);
	go_on = 1;
	CHECK(!pthread_join(t[0], NULL) && !pthread_join(t[1], NULL));
	release_tiles();
}

/* Configured, but nothing in them. */
static void amxconfig(void)
{
	struct tile_config c = { 0 };
	uint8_t got[1024], zero[1024] = { 0 };

	if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18))
		SKIP("no AMX: %s", strerror(errno));
	fill_tiles(5);
	release_tiles();
	load_config(&config);
	t_wait();
	memset(got, 1, sizeof(got));
	store_tiles(&c, got, got);
	CHECK(!memcmp(&c, &config, sizeof(c)) && !memcmp(got, zero, 512));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "ldt", ldt }, { "amxperm", amxperm }, { "amx", amx }, { "amxconfig", amxconfig } };

	T_RUN(variants, t_init(argc, argv));
}
