/* SPDX-License-Identifier: MIT */
/* Labels of security modules: AppArmor profiles, SELinux contexts. */
#ifndef CKPT_STATE_LSM_H
#define CKPT_STATE_LSM_H

#include "lib/state/snapshot.h"

struct plan_build;

Lsmtype lsm_here(void); /* which one this kernel has and uses */
/* A label, as attr/current shows it, into the arena; NULL in *@label: there is none. Returns 0, or -1: it is of no known form. */
int lsm_parse(struct op *op, Lsmtype type, const char *text, size_t len, char **label);
/* Dump: of one thread, into its credentials. */
int lsm_dump(struct op *op, pid_t tgid, pid_t tid, CredsEntry *c);

struct lsm_choice {
	bool given;
	Lsmtype type;
	const char *label; /* NULL: none */
};
/* --lsm-profile TYPE:NAME, or none. */
int lsm_parse_option(struct op *op, struct lsm_choice *c);
/* Restore: thread @thread (its index) takes its label, before filters and credentials; or what --lsm-profile says. */
int lsm_plan(struct plan_build *b, size_t thread);

#endif
