"""From prompts and pictures to pictures: one denoising loop around diffusers' schedulers, and what is built on it.

`shots` says what to draw, `options` how; `drawing` draws, `enlarging` makes the drawn larger. Below them: `denoising`
(the loop), `guidance` (what is done to a prediction), `conditions` (prompts), `noise`, `tiles`, `images` (pictures in
and out), `precision`. Around them: `prompt_files` and `metadata`.
"""
