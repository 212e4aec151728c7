"""Cloud TPUs: what is checked before a TPU is paid for, and what runs on one."""
