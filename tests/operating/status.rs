//! `sdl status`.
