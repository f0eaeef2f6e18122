// SPDX-License-Identifier: MIT
#include "lib/image/pack_dups.h"

#include <pthread.h>
#include <sys/random.h>

#define SLOTS (1u << 19) /* of 32 bytes */

struct seen {
	XXH128_hash_t hash;
	uint32_t pages_id;
	uint32_t used;
	uint64_t page;
};

struct dups {
	pthread_mutex_t lock;
	struct seen *slots;
	unsigned char secret[XXH3_SECRET_SIZE_MIN + 64];
};

struct dups *dups_new(void)
{
	struct dups *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->slots = calloc(SLOTS, sizeof(*d->slots));
	if (!d->slots || getrandom(d->secret, sizeof(d->secret), 0) != sizeof(d->secret)) {
		free(d->slots);
		free(d);
		return NULL;
	}
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

struct dups *dups_free(struct dups *d)
{
	if (!d)
		return NULL;
	pthread_mutex_destroy(&d->lock);
	free(d->slots);
	free(d);
	return NULL;
}

uint16_t dups_find(struct dups *d, uint32_t pages_id, uint64_t first, const void *pages, unsigned n, struct block_ref *refs)
{
	XXH128_hash_t hash[BLOCK_PAGES];
	uint16_t found = 0;

	for (unsigned k = 0; k < n; k++)
		hash[k] = XXH3_128bits_withSecret((const char *)pages + k * PAGE_SIZE, PAGE_SIZE, d->secret, sizeof(d->secret));
	pthread_mutex_lock(&d->lock);
	for (unsigned k = 0; k < n; k++) {
		struct seen *s = &d->slots[hash[k].low64 % SLOTS];

		if (s->used && XXH128_isEqual(s->hash, hash[k])) {
			found |= (uint16_t)(1u << k);
			*refs++ = (struct block_ref){ .pages_id = s->pages_id, .page = s->page };
		} else {
			*s = (struct seen){ hash[k], pages_id, 1, first + k };
		}
	}
	pthread_mutex_unlock(&d->lock);
	return found;
}
