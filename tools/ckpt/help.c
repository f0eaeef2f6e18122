// SPDX-License-Identifier: MIT
/* --help, and what the manual pages and the completion are made of: all from the option tables. */
#include <ctype.h>
#include <string.h>

#include "cli.h"

enum { WIDTH = 80, COLUMN = 30 };

static bool is_wanted(const struct ckpt_option *opt, unsigned for_flag)
{
	return (opt->flags & for_flag) && !(opt->flags & CKPT_OPTF_HIDDEN);
}

typedef void (*row_fn)(const struct ckpt_option *opt);

static void each_row(unsigned for_flag, bool later, row_fn fn)
{
	const struct ckpt_option *(*const tables[])(size_t *) = { own_option_table, ckpt_option_table };

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		size_t n;
		const struct ckpt_option *table = tables[t](&n);

		for (size_t i = 0; i < n; i++)
			if (is_wanted(&table[i], for_flag) && !!(table[i].flags & CKPT_OPTF_NOT_YET) == later)
				fn(&table[i]);
	}
}

/* -------------------------------------------------------------------------------------------------- --help */

/* Prints words from @column on; returns the column reached. */
static size_t print_wrapped(const char *text, size_t at, size_t column)
{
	while (*text) {
		size_t word = strcspn(text, " ");

		if (at + (at > column) + word > WIDTH) {
			printf("\n%*s", (int)column, "");
			at = column;
		}
		at += (size_t)printf("%s%.*s", at > column ? " " : "", (int)word, text);
		text += word + (text[word] == ' ');
	}
	return at;
}

static void help_row(const struct ckpt_option *opt)
{
	bool optional = opt->flags & CKPT_OPTF_OPTIONAL_ARG;
	size_t at;

	at = opt->short_name ? (size_t)printf("  -%c, ", opt->short_name) : (size_t)printf("      ");
	at += (size_t)printf("--%s%s", opt->flags & CKPT_OPTF_NEGATABLE ? "[no-]" : "", opt->name);
	if (opt->arg)
		at += (size_t)printf(optional ? "[=%s]" : " %s", opt->arg);
	if (at + 2 > COLUMN)
		printf("\n%*s", COLUMN, "");
	else
		printf("%*s", (int)(COLUMN - at), "");
	print_wrapped(opt->help, COLUMN, COLUMN);
	printf("\n");
}

/* Where the list of names stands; rows come one by one. */
static size_t later_at;
static bool later_first;

static void help_later_row(const struct ckpt_option *opt)
{
	char text[96];

	snprintf(text, sizeof(text), "%s--%s", later_first ? "" : ", ", opt->name);
	if (later_at + strlen(text) + 1 > WIDTH) {
		printf(",\n  --%s", opt->name);
		later_at = strlen(opt->name) + 4;
	} else {
		later_at += (size_t)printf("%s", text);
	}
	later_first = false;
}

void usage(const struct cli *cli, FILE *f)
{
	const struct command *table, *command = cli->command;
	size_t n;

	if (command && command->run) {
		fprintf(f, "usage: %s %s %s [OPTION...]\nTry '%s %s --help'.\n", cli->prog, command->name,
			command->args, cli->prog, command->name);
		return;
	}
	table = command_table(&n);
	fprintf(f, "usage: %s COMMAND [OPTION...]\n\nCommands:\n", cli->prog);
	for (size_t i = 0; i < n; i++)
		if (table[i].run)
			fprintf(f, "  %-9s %-15s %s\n", table[i].name, table[i].args, table[i].help);
	fprintf(f, "Try '%s COMMAND --help'.\n", cli->prog);
}

static void print_general_help(const struct cli *cli)
{
	size_t n;
	const struct command *table = command_table(&n);

	printf("%s saves running programs to disk, and brings them back.\n\n", cli->prog);
	usage(cli, stdout);
	printf("\nExamples:\n");
	for (size_t i = 0; i < n; i++)
		if (table[i].run)
			printf("%.*s\n", (int)strcspn(table[i].examples, "\n"), table[i].examples);
	printf("\nNot implemented yet:");
	for (size_t i = 0; i < n; i++)
		if (!table[i].run)
			printf(" %s", table[i].name);
	printf("\n");
}

void print_help(const struct cli *cli)
{
	const struct command *command = cli->command;

	if (!command) {
		print_general_help(cli);
		return;
	}
	if (!command->run) {
		printf("command '%s' is not implemented yet\n", command->name);
		return;
	}
	printf("%s %s: %s\n\nusage: %s %s %s [OPTION...]\n\nExamples:\n%s\nOptions:\n", cli->prog,
	       command->name, command->help, cli->prog, command->name, command->args, command->examples);
	each_row(command->for_flag, false, help_row);
	if (!(command->for_flag & (CKPT_FOR_DUMP | CKPT_FOR_PRE_DUMP | CKPT_FOR_RESTORE)))
		return;
	printf("\nKnown, but not implemented yet (refused, not ignored):\n  ");
	later_at = 2;
	later_first = true;
	each_row(command->for_flag, true, help_later_row);
	printf("\n");
}

/* ------------------------------------------------------------------------------------------ manual pages */

static void roff(const char *text)
{
	for (; *text; text++) {
		if (*text == '\\')
			printf("\\e");
		else if (*text == '-')
			printf("\\-");
		else
			putchar(*text);
	}
}

static void man_name(const char *prefix, const struct ckpt_option *opt)
{
	printf("\\fB\\-\\-%s", prefix);
	roff(opt->name);
	printf("\\fR");
}

static void man_row(const struct ckpt_option *opt)
{
	printf(".TP\n");
	if (opt->short_name)
		printf("\\fB\\-%c\\fR, ", opt->short_name);
	man_name("", opt);
	if (opt->arg)
		printf(opt->flags & CKPT_OPTF_OPTIONAL_ARG ? "[=\\fI%s\\fR]" : " \\fI%s\\fR", opt->arg);
	if (opt->flags & CKPT_OPTF_NEGATABLE) {
		printf(", ");
		man_name("no\\-", opt);
	}
	printf("\n%c", toupper((unsigned char)opt->help[0]));
	roff(opt->help + 1);
	printf(".\n");
}

void print_man_options(unsigned for_flag)
{
	each_row(for_flag, false, man_row);
	if (!(for_flag & (CKPT_FOR_DUMP | CKPT_FOR_PRE_DUMP | CKPT_FOR_RESTORE)))
		return;
	printf(".SS Not implemented yet\nThese are parsed, and then refused by name:\n");
	each_row(for_flag, true, man_row);
}

/* -------------------------------------------------------------------------------------------- completion */

static void name_row(const struct ckpt_option *opt)
{
	printf("--%s%s\n", opt->name, opt->type != CKPT_OPT_BOOL && !(opt->flags & CKPT_OPTF_OPTIONAL_ARG) ? "=" : "");
	if (opt->flags & CKPT_OPTF_NEGATABLE)
		printf("--no-%s\n", opt->name);
}

void print_option_names(unsigned for_flag)
{
	each_row(for_flag, false, name_row);
}

static void values_row(const struct ckpt_option *opt)
{
	if (!opt->values)
		return;
	printf("--%s", opt->name);
	for (size_t i = 0; opt->values[i]; i++)
		printf(" %s", opt->values[i]);
	printf("\n");
}

void print_option_values(unsigned for_flag)
{
	each_row(for_flag, false, values_row);
}
