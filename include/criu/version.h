/* SPDX-License-Identifier: MIT */
/* The version of libcriu whose functions this library has, as programs ask for it when they are compiled. */
#ifndef CRIU_VERSION_H
#define CRIU_VERSION_H

#define CRIU_VERSION "4.2"
#define CRIU_VERSION_MAJOR 4
#define CRIU_VERSION_MINOR 2
#define CRIU_VERSION_SUBLEVEL 0

#endif
