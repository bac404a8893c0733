# What cannot work is refused before anything is created.

mock_provider "aws" {}

variables {
  name = "trunk"
}

run "name_too_long" {
  command = plan

  variables {
    name = "a-name-of-more-than-20"
  }

  expect_failures = [var.name]
}

run "bucket_with_capitals" {
  command = plan

  variables {
    bucket_prefix = "Acme"
  }

  expect_failures = [var.bucket_prefix]
}

run "bucket_with_dots" {
  command = plan

  variables {
    bucket_prefix = "acme.lm"
  }

  expect_failures = [var.bucket_prefix]
}

run "bucket_name_that_s3_keeps" {
  command = plan

  variables {
    bucket_prefix = "xn--acme"
  }

  expect_failures = [var.bucket_prefix]
}

run "bucket_name_over_63_with_its_ending" {
  command = plan

  variables {
    bucket_prefix = "a123456789b123456789c123456789d123456789e123456789f1"
  }

  expect_failures = [var.bucket_prefix]
}

run "versions_for_no_day" {
  command = plan

  variables {
    noncurrent_days            = 0
    noncurrent_checkpoint_days = 0.5
  }

  expect_failures = [var.noncurrent_days, var.noncurrent_checkpoint_days]
}

run "boot_file_that_is_not_there" {
  command = plan

  variables {
    bootstrap_files = { "head.sh" = "./no-such-file.sh" }
  }

  expect_failures = [var.bootstrap_files]
}

run "boot_file_with_a_folder" {
  command = plan

  variables {
    bootstrap_files = { "../head.sh" = "./main.tf" }
  }

  expect_failures = [var.bootstrap_files]
}
