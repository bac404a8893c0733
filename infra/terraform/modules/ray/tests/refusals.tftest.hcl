# What cannot work is refused before anything is created, several variables at a time.

mock_provider "aws" {}

variables {
  name                      = "trunk"
  region                    = "us-east-1"
  vpc_id                    = "vpc-1"
  head_subnet_id            = "subnet-1"
  head_private_ip           = "10.20.0.10"
  worker_subnet_ids         = ["subnet-1"]
  worker_availability_zones = ["us-east-1a"]
  kms_key_arn               = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  buckets                   = { data = "b-data", checkpoints = "b-checkpoints", mlflow = "b-mlflow" }
  ami_id                    = "ami-0123456789abcdef0"
}

run "values_that_are_none" {
  command = plan

  variables {
    region               = "us-east"
    head_private_ip      = "head"
    kms_key_arn          = "alias/trunk"
    ami_id               = "ami-latest"
    root_device_name     = "sda1"
    image                = "trunkline"
    python               = "python3.13"
    head_instance_type   = "t3"
    head_volume_gb       = 8
    worker_volume_gb     = 8
    idle_timeout_minutes = 0
  }

  expect_failures = [
    var.region, var.head_private_ip, var.kms_key_arn, var.ami_id, var.root_device_name, var.image, var.python,
    var.head_instance_type, var.head_volume_gb, var.worker_volume_gb, var.idle_timeout_minutes,
  ]
}

run "workers_without_a_type" {
  command = plan

  variables {
    max_workers = 2
  }

  expect_failures = [var.max_workers]
}

run "type_without_gpus" {
  command = plan

  variables {
    worker_instance_type = "m7i.xlarge"
    max_workers          = 2
  }

  expect_failures = [var.worker_instance_type]
}

run "arm_head_and_moving_image" {
  command = plan

  variables {
    head_instance_type = "m7g.xlarge"
    image              = "registry.example.org/trunkline:latest"
  }

  expect_failures = [var.head_instance_type, var.image]
}

run "more_at_least_than_at_most" {
  command = plan

  variables {
    worker_instance_type = "g6.xlarge"
    min_workers          = 3
    max_workers          = 2
  }

  expect_failures = [var.min_workers]
}

run "spot_with_a_reservation" {
  command = plan

  variables {
    worker_instance_type    = "p5.48xlarge"
    max_workers             = 2
    spot                    = true
    capacity_reservation_id = "cr-0123456789abcdef0"
  }

  expect_failures = [var.spot]
}

run "block_without_a_reservation" {
  command = plan

  variables {
    worker_instance_type = "p5.48xlarge"
    max_workers          = 2
    capacity_block       = true
  }

  expect_failures = [var.capacity_block]
}

run "efa_on_a_type_without" {
  command = plan

  variables {
    worker_instance_type = "g6.xlarge"
    max_workers          = 2
    efa                  = true
  }

  expect_failures = [var.efa]
}

run "efa_and_placement_across_zones" {
  command = plan

  variables {
    worker_instance_type      = "p4d.24xlarge"
    max_workers               = 2
    efa                       = true
    placement_group           = true
    worker_subnet_ids         = ["subnet-1", "subnet-2"]
    worker_availability_zones = ["us-east-1a", "us-east-1b"]
  }

  expect_failures = [var.efa, var.placement_group]
}

run "zones_that_do_not_fit_the_subnets" {
  command = plan

  variables {
    worker_availability_zones = ["us-east-1a", "us-east-1b"]
  }

  expect_failures = [var.worker_availability_zones]
}

run "secret_among_the_settings" {
  command = plan

  variables {
    node_settings = { HF_TOKEN = "hf_123" }
  }

  expect_failures = [var.node_settings]
}
