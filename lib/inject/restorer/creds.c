/* SPDX-License-Identifier: MIT */
/* Credentials and seccomp of one thread: raw calls, which change the calling thread only. */
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>

#include "lib/inject/restorer/restorer.h"

void become(struct plan *p)
{
	if (!p->become)
		return;
	must(p, PLAN_STEP_IDS, 2, sys(__NR_setresgid, p->become_gid, p->become_gid, p->become_gid));
	must(p, PLAN_STEP_IDS, 3, sys(__NR_setresuid, p->become_uid, p->become_uid, p->become_uid));
}

static void set_caps(struct plan *p, uint64_t eff, uint64_t prm, uint64_t inh)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = {
		{ (uint32_t)eff, (uint32_t)prm, (uint32_t)inh },
		{ (uint32_t)(eff >> 32), (uint32_t)(prm >> 32), (uint32_t)(inh >> 32) },
	};

	must(p, PLAN_STEP_CAPS, 0, sys(__NR_capset, &head, data));
}

static uint64_t permitted_now(struct plan *p)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	must(p, PLAN_STEP_CAPS, 1, sys(__NR_capget, &head, data));
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static void set_ids(struct plan *p, const struct plan_creds *c)
{
	if (!c->keep_groups)
		must(p, PLAN_STEP_GROUPS, 0, sys(__NR_setgroups, c->groups.n, PLAN_AT(p, uint32_t, c->groups)));
	must(p, PLAN_STEP_IDS, 0, sys(__NR_setresgid, c->gid, c->egid, c->sgid));
	sys(__NR_setfsgid, c->fsgid);
	/* With the fixups off, changing the user does not touch the capabilities. */
	must(p, PLAN_STEP_SECUREBITS, 0, sys(__NR_prctl, PR_SET_SECUREBITS, 1 << SECURE_NO_SETUID_FIXUP, 0, 0, 0));
	must(p, PLAN_STEP_IDS, 1, sys(__NR_setresuid, c->uid, c->euid, c->suid));
	sys(__NR_setfsuid, c->fsuid);
}

static void set_ambient(struct plan *p, uint64_t ambient)
{
	must(p, PLAN_STEP_AMBIENT, 0, sys(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	for (unsigned cap = 0; cap < 64 && ambient >> cap; cap++)
		if (ambient >> cap & 1)
			must(p, PLAN_STEP_AMBIENT, cap, sys(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0));
}

void creds_restore(struct plan *p, struct plan_thread *t)
{
	const struct plan_creds *c = &t->creds;

	if (c->change) {
		uint64_t now;

		set_ids(p, c);
		now = permitted_now(p);
		set_caps(p, now, now, c->inheritable);
		set_ambient(p, c->ambient);
		for (unsigned cap = 0; cap <= c->last_cap; cap++)
			if (!(c->bounding >> cap & 1))
				must(p, PLAN_STEP_BOUNDING, cap, sys(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0));
		must(p, PLAN_STEP_SECUREBITS, 1, sys(__NR_prctl, PR_SET_SECUREBITS, c->securebits, 0, 0, 0));
		set_caps(p, c->effective, c->permitted, c->inheritable);
	}
	if (c->no_new_privs)
		must(p, PLAN_STEP_PRCTL, PR_SET_NO_NEW_PRIVS, sys(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

void seccomp_restore(struct plan *p, struct plan_thread *t)
{
	const struct plan_filter *f = PLAN_AT(p, struct plan_filter, t->filters);

	for (uint64_t i = 0; i < t->filters.n; i++) {
		struct {
			uint16_t len, pad[3];
			uint64_t filter;
		} prog = { .len = (uint16_t)f[i].len, .filter = (uint64_t)p + f[i].off };

		must(p, PLAN_STEP_SECCOMP, i, sys(__NR_seccomp, SECCOMP_SET_MODE_FILTER, f[i].flags, &prog));
	}
	if (t->seccomp_mode == 1)
		must(p, PLAN_STEP_SECCOMP, 0, sys(__NR_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0));
}
