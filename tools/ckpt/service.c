// SPDX-License-Identifier: MIT
/* ckpt service: what swrk does, for everybody who can connect to a socket. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#include "lib/rpc/rpc.h"

struct service {
	struct cli *cli;
	struct pidfile pidfile;
	int status_fd;
};

static void ready(void *arg)
{
	struct service *s = arg;

	if (s->pidfile.fd >= 0)
		pidfile_commit(s->cli, &s->pidfile, getpid());
	if (s->status_fd >= 0) {
		if (write(s->status_fd, "", 1) != 1)
			out_log(s->cli, CKPT_LOG_WARN, "nobody reads the descriptor of --status-fd");
		close(s->status_fd);
	}
	daemon_ready(s->cli);
}

static bool stop(void *arg)
{
	(void)arg;
	return cancel_signal() != 0;
}

static void say(void *arg, enum ckpt_log_level level, const char *text)
{
	struct service *s = arg;

	if (level == CKPT_LOG_ERROR)
		fail(s->cli, NULL, "%s", text);
	else if ((unsigned)level <= s->cli->opts.log_level)
		out_log(s->cli, level, text);
}

/* What is meant for the service itself is no default of requests. */
static struct ckpt_opts defaults_of(const struct cli *cli)
{
	struct ckpt_opts o = cli->opts;

	o.address = o.log_file = o.pidfile = o.work_dir = o.images_dir = NULL;
	o.restore_detached = false;
	o.status_fd = -1;
	return o;
}

static int serve(struct cli *cli)
{
	struct ckpt_opts defaults = defaults_of(cli);
	const char *work = cli->opts.work_dir ? cli->opts.work_dir : cli->opts.images_dir ? cli->opts.images_dir : ".";
	struct service s = { .cli = cli, .pidfile = PIDFILE_INIT, .status_fd = cli->opts.status_fd };
	struct rpc_service service = {
		.conf = { .ctx = cli->ctx, .defaults = &defaults, .service = true },
		.dir = open(work, O_PATH | O_DIRECTORY | O_CLOEXEC),
		.path = cli->opts.address ? cli->opts.address : "criu_service.socket",
		.ready = ready,
		.stop = stop,
		.say = say,
		.arg = &s,
	};
	int r;

	if (service.dir < 0)
		return fail(cli, NULL, "cannot open the folder %s: %s", work, strerror(errno));
	/* In the background the one that started us writes it. */
	r = cli->opts.pidfile && !cli->opts.restore_detached ? pidfile_prepare(cli, &s.pidfile) : 0;
	r = r ? r : rpc_serve(&service);
	pidfile_close(&s.pidfile);
	close(service.dir);
	return r < 0 ? 1 : r;
}

int cmd_service(struct cli *cli)
{
	if (cli->n_args) {
		fail(cli, NULL, "service: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	return run_server(cli, serve);
}
