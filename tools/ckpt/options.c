// SPDX-License-Identifier: MIT
/*
 * From argv and configuration files to struct ckpt_opts. The options come from the library's table and from a small one
 * of our own; getopt_long(3) gets its arrays from both, so that abbreviations and --name=value work for all.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>

#include "cli.h"

enum own_id {
	OWN_TREE, OWN_JSON, OWN_FEATURE, OWN_EXTRA, OWN_EXPERIMENTAL, OWN_ALL, OWN_LIST, OWN_MS, OWN_CONFIG,
	OWN_NO_DEFAULT_CONFIG, OWN_HELP, OWN_VERSION, OWN_MAN_OPTIONS, OWN_LIST_OPTIONS, OWN_LIST_VALUES,
};

#define ANY                                                                                         \
	(CKPT_FOR_DUMP | CKPT_FOR_RESTORE | CKPT_FOR_CHECK | CKPT_FOR_INSPECT | CKPT_FOR_PRE_DUMP | CKPT_FOR_PAGE_SERVER | \
	 CKPT_FOR_LAZY_PAGES | CKPT_FOR_DEDUP | CKPT_FOR_LOCK | CKPT_FOR_CPUINFO)
#define HID CKPT_OPTF_HIDDEN
#define NEG CKPT_OPTF_NEGATABLE
#define FLAG(n, s, fl, id, h) { n, s, CKPT_OPT_BOOL, fl, id, NULL, NULL, h }
#define TEXT(n, s, fl, id, a, h) { n, s, CKPT_OPT_STRING, fl, id, a, NULL, h }

/* Rows like the library's; offset is an own_id. */
static const struct ckpt_option own[] = {
	TEXT("tree", 't', CKPT_FOR_DUMP | CKPT_FOR_PRE_DUMP | CKPT_FOR_CHECK, OWN_TREE, "PID",
	     "the root of the process tree"),
	FLAG("json", 0, CKPT_FOR_DUMP | CKPT_FOR_RESTORE | CKPT_FOR_PRE_DUMP | CKPT_FOR_CHECK | CKPT_FOR_INSPECT |
	     CKPT_FOR_LOCK, OWN_JSON,
	     "print JSON, for programs"),
	TEXT("feature", 0, CKPT_FOR_CHECK, OWN_FEATURE, "NAME", "test one feature; exit status 0 when it is there"),
	FLAG("extra", 0, CKPT_FOR_CHECK | NEG, OWN_EXTRA, "also fail when an optional feature is missing"),
	FLAG("experimental", 0, CKPT_FOR_CHECK | NEG, OWN_EXPERIMENTAL, "also fail when an experimental one is"),
	FLAG("all", 0, CKPT_FOR_CHECK | CKPT_FOR_LOCK, OWN_ALL,
	     "check: fail when any feature is missing; unlock: remove every lock that is not in use"),
	FLAG("list", 0, CKPT_FOR_LOCK, OWN_LIST, "unlock: print the ids of the locks that are there, remove none"),
	FLAG("ms", 0, CKPT_FOR_CHECK | HID, OWN_MS, "refused"),
	TEXT("config", 0, ANY, OWN_CONFIG, "FILE", "read options from FILE instead of the default files"),
	FLAG("no-default-config", 0, ANY, OWN_NO_DEFAULT_CONFIG, "do not read the default configuration files"),
	FLAG("help", 'h', ANY, OWN_HELP, "print this text"),
	FLAG("version", 'V', ANY, OWN_VERSION, "print the version"),
	FLAG("man-options", 0, ANY | HID, OWN_MAN_OPTIONS, "print the options as roff"),
	FLAG("list-options", 0, ANY | HID, OWN_LIST_OPTIONS, "print the names of the options"),
	FLAG("list-values", 0, ANY | HID, OWN_LIST_VALUES, "print the words that options take"),
};

const struct ckpt_option *own_option_table(size_t *n)
{
	*n = ARRAY_SIZE(own);
	return own;
}

/* ---------------------------------------------------------------------------------------------- getopt */

enum { FIRST_LONG = 0x1000, NEGATED = 1 };

struct parser {
	struct option *longs;
	size_t n_longs;
	char shorts[3 * 2 * 26 + 1];
	char *negated;		/* "no-NAME\0" of all, in one piece */
};

static int has_arg(const struct ckpt_option *opt)
{
	if (opt->flags & CKPT_OPTF_OPTIONAL_ARG)
		return optional_argument;
	return opt->type == CKPT_OPT_BOOL ? no_argument : required_argument;
}

/* All options of both tables by one number. */
static const struct ckpt_option *option_at(size_t i, bool *is_own)
{
	const struct ckpt_option *table;
	size_t n;

	table = ckpt_option_table(&n);
	*is_own = i >= n;
	if (i < n)
		return &table[i];
	return i - n < ARRAY_SIZE(own) ? &own[i - n] : NULL;
}

static void add_long(struct parser *p, const char *name, int arg, int val)
{
	p->longs[p->n_longs++] = (struct option){ .name = name, .has_arg = arg, .val = val };
}

static int parser_init(struct parser *p)
{
	static const char *const colons[] = { "", ":", "::" };
	const struct ckpt_option *opt;
	size_t n, room = 0;
	bool is_own;
	char *s;

	for (n = 0; (opt = option_at(n, &is_own)); n++)
		room += strlen(opt->name) + sizeof("no-");
	p->longs = calloc(2 * n + 1, sizeof(*p->longs));
	p->negated = s = malloc(room);
	if (!p->longs || !s)
		return -1;
	for (size_t i = 0; i < n; i++) {
		int val = FIRST_LONG + 2 * (int)i;

		opt = option_at(i, &is_own);
		add_long(p, opt->name, has_arg(opt), val);
		if (opt->flags & CKPT_OPTF_NEGATABLE) {
			add_long(p, s, no_argument, val + NEGATED);
			s += sprintf(s, "no-%s", opt->name) + 1;
		}
		if (opt->short_name) {
			size_t used = strlen(p->shorts);

			snprintf(p->shorts + used, sizeof(p->shorts) - used, "%c%s", opt->short_name,
				 colons[has_arg(opt)]);
		}
	}
	return 0;
}

static void parser_free(struct parser *p)
{
	free(p->longs);
	free(p->negated);
}

static const struct ckpt_option *by_value(int val, bool *is_own)
{
	const struct ckpt_option *opt;

	if (val >= FIRST_LONG)
		return option_at((size_t)(val - FIRST_LONG) / 2, is_own);
	for (size_t i = 0; (opt = option_at(i, is_own)); i++)
		if (opt->short_name == val)
			return opt;
	return NULL;
}

int options_each(struct cli *cli, int argc, char **argv, bool from_file, bool quiet, option_fn fn)
{
	struct parser p = { 0 };
	int val, r = parser_init(&p);

	opterr = !quiet;
	optind = 0; /* start over, whatever was parsed before */
	while (!r && (val = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1) {
		bool is_own = false, negated = val >= FIRST_LONG && (val - FIRST_LONG) % 2 == NEGATED;
		const struct ckpt_option *opt = by_value(val, &is_own);

		if (opt)
			r = fn(cli, opt, is_own, negated ? "0" : optarg, from_file);
		else if (!quiet)
			r = EXIT_USAGE;
	}
	parser_free(&p);
	return r;
}

/* ------------------------------------------------------------------------------------------ first pass */

/* Which files to read, and whether it is about help only, has to be known before anything else is looked at. */
static int take_early(struct cli *cli, const struct ckpt_option *opt, bool is_own, const char *value, bool from_file)
{
	(void)from_file;
	if (!is_own)
		return 0;
	if (opt->offset == OWN_CONFIG)
		cli->config = value;
	else if (opt->offset == OWN_NO_DEFAULT_CONFIG)
		cli->no_default_config = true;
	else if (opt->offset == OWN_HELP)
		cli->help = true;
	else if (opt->offset == OWN_VERSION)
		cli->version = true;
	else if (opt->offset == OWN_MAN_OPTIONS)
		cli->man_options = true;
	else if (opt->offset == OWN_LIST_OPTIONS)
		cli->list_options = true;
	else if (opt->offset == OWN_LIST_VALUES)
		cli->list_values = true;
	return 0;
}

/* ----------------------------------------------------------------------------------------- second pass */

static int set_tree(struct cli *cli, const char *value)
{
	char *end;
	long pid;

	errno = 0;
	pid = strtol(value, &end, 10);
	if (errno || *end || end == value || pid <= 0 || pid > INT_MAX)
		return fail(cli, NULL, "option --tree: '%s' is not a process ID", value);
	cli->tree = (pid_t)pid;
	return 0;
}

static int set_own(struct cli *cli, enum own_id id, const char *value)
{
	bool on = !value || strcmp(value, "0") != 0;

	switch (id) {
	case OWN_TREE:
		return set_tree(cli, value);
	case OWN_JSON:
		cli->json = true;
		break;
	case OWN_FEATURE:
		cli->feature = value;
		break;
	case OWN_EXTRA:
		cli->extra = on;
		break;
	case OWN_EXPERIMENTAL:
		cli->experimental = on;
		break;
	case OWN_ALL:
		cli->extra = cli->experimental = cli->all = true;
		break;
	case OWN_LIST:
		cli->list = true;
		break;
	case OWN_MS:
		return fail(cli, "check tells optional features apart by itself",
			    "option --ms does not exist any more");
	default:
		break; /* taken early */
	}
	return 0;
}

static int take(struct cli *cli, const struct ckpt_option *opt, bool is_own, const char *value, bool from_file)
{
	struct ckpt_err *err = NULL;

	if (!(opt->flags & cli->command->for_flag)) {
		/* A file serves all commands; on the command line it is likely a mistake. */
		if (!from_file)
			warn_later(cli, "option --%s has no effect on %s", opt->name, cli->command->name);
		return 0;
	}
	if (is_own)
		return set_own(cli, (enum own_id)opt->offset, value);
	return ckpt_opts_set(&cli->opts, opt, value, &err) == 0 ? 0 : fail_err(cli, err);
}

static int parse_file(struct cli *cli, const char *path)
{
	int first = cli->config_words.n, n, r;
	char *wrong, **argv;

	if (config_read(&cli->config_words, path, &wrong) != 0) {
		r = fail(cli, NULL, "%s", wrong ? wrong : "out of memory");
		free(wrong);
		return r;
	}
	n = cli->config_words.n - first;
	argv = calloc((size_t)n + 2, sizeof(*argv));
	if (!argv)
		return fail(cli, NULL, "out of memory");
	argv[0] = (char *)cli->prog;
	for (int i = 0; i < n; i++)
		argv[i + 1] = cli->config_words.words[first + i];
	r = options_each(cli, n + 1, argv, true, false, take);
	free(argv);
	return r ? fail(cli, NULL, "%s: not a valid configuration file", path) : 0;
}

static int parse_files(struct cli *cli)
{
	const char *home = getenv("HOME"), *env = getenv("CRIU_CONFIG_FILE");
	char path[PATH_MAX];
	int r = 0;

	if (!cli->config && !cli->no_default_config) {
		r = parse_file(cli, "/etc/criu/default.conf");
		if (!r && home && snprintf(path, sizeof(path), "%s/.criu/default.conf", home) < (int)sizeof(path))
			r = parse_file(cli, path);
	}
	if (!r && env && *env)
		r = parse_file(cli, env);
	if (!r && cli->config)
		r = parse_file(cli, cli->config);
	return r;
}

static int find_command(struct cli *cli, const char *name)
{
	const struct command *table;
	size_t n;

	if (strcmp(name, "exec") == 0 || strcmp(name, "show") == 0) {
		fail(cli, strcmp(name, "show") == 0 ? "use inspect" : NULL, "command '%s' does not exist any more",
		     name);
		return EXIT_REMOVED;
	}
	table = command_table(&n);
	for (size_t i = 0; i < n; i++)
		if (strcmp(table[i].name, name) == 0)
			cli->command = &table[i];
	if (!cli->command) {
		fail(cli, NULL, "unknown command '%s'", name);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (!cli->command->run && !cli->help)
		return fail(cli, NULL, "command '%s' is not implemented yet", name);
	return 0;
}

static bool only_informs(const struct cli *cli)
{
	return cli->help || cli->version || cli->man_options || cli->list_options || cli->list_values;
}

int options_parse(struct cli *cli, int argc, char **argv)
{
	/* getopt moves everything that is not an option to the end: each pass gets its own array. */
	char **sorted = calloc((size_t)argc + 1, sizeof(*sorted));
	int r;

	if (!sorted)
		return fail(cli, NULL, "out of memory");
	cli->sorted = sorted;
	memcpy(sorted, argv, (size_t)argc * sizeof(*sorted));
	options_each(cli, argc, sorted, false, true, take_early);
	if (optind < argc) {
		r = find_command(cli, sorted[optind]);
		if (r)
			return r;
		cli->args = sorted + optind + 1;
		cli->n_args = argc - optind - 1;
	}
	if (only_informs(cli))
		return 0;
	if (!cli->command) {
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (cli->command->for_flag & (CKPT_FOR_DUMP | CKPT_FOR_PRE_DUMP))
		cli->opts.timeout = 10;
	r = parse_files(cli);
	if (r)
		return r;
	return options_each(cli, argc, argv, false, false, take);
}
