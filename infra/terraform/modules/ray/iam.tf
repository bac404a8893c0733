# Two roles. Both read what they boot from, use Trunkline's prefixes, and can be logged in to by Session Manager; the head also
# writes the cluster's secret and starts workers, from this launch template and with this cluster's tag only.
#
# Policies are written with jsonencode and not as aws_iam_policy_document, so that `terraform test` sees them without an account.

locals {
  partition = data.aws_partition.current.partition
  s3        = "arn:${local.partition}:s3:::"
  ec2       = "arn:${local.partition}:ec2:${var.region}:${data.aws_caller_identity.current.account_id}"

  assume_by_ec2 = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  node_statements = [
    {
      # the whole bucket: with a condition on the prefix, S3 answers 403 instead of 404 for an object that does not exist
      Sid      = "ListBuckets"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = [for bucket in [var.buckets.data, var.buckets.checkpoints, var.buckets.mlflow] : "${local.s3}${bucket}"]
    },
    {
      Sid      = "ReadInputs"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.s3}${var.buckets.data}/bootstrap/*", "${local.s3}${var.buckets.data}/data/*"]
    },
    {
      Sid      = "ReadAndWriteArtifacts"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
      Resource = ["${local.s3}${var.buckets.checkpoints}/store/*", "${local.s3}${var.buckets.mlflow}/artifacts/*"]
    },
    {
      Sid      = "UseKeyThroughS3AndSecrets"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = [var.kms_key_arn]
      Condition = {
        StringEquals = { "kms:ViaService" = ["s3.${var.region}.amazonaws.com", "secretsmanager.${var.region}.amazonaws.com"] }
      }
    },
    {
      # the cluster's own, and those that you put under <name>/jobs/ for jobs to read by name
      Sid    = "ReadSecrets"
      Effect = "Allow"
      Action = ["secretsmanager:GetSecretValue"]
      Resource = [
        aws_secretsmanager_secret.ray.arn,
        "arn:${local.partition}:secretsmanager:${var.region}:${data.aws_caller_identity.current.account_id}:secret:${var.name}/jobs/*",
      ]
    },
    {
      # these actions know no resources. AWS's managed policy for them would add reading every SSM parameter of the account.
      Sid    = "SessionManager"
      Effect = "Allow"
      Action = [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = ["*"]
    },
  ]

  registry_statements = var.image == null ? [] : [
    {
      # the log-in to ECR knows no resources
      Sid      = "LogInToRegistry"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"]
    },
    {
      Sid      = "PullImage"
      Effect   = "Allow"
      Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = ["arn:${local.partition}:ecr:${var.region}:${data.aws_caller_identity.current.account_id}:repository/${local.repository}"]
    },
  ]
  # registry/team/trunkline:0.1.0 -> team/trunkline
  repository = var.image == null ? "" : replace(replace(var.image, "/^[^/]*\\.[^/]*\\//", ""), "/[:@].*$/", "")

  of_this_template = { "ec2:LaunchTemplate" = one(aws_launch_template.worker[*].arn) }

  autoscaler_statements = [
    {
      # knows no resources
      Sid      = "SeeInstances"
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances"]
      Resource = ["*"]
    },
    {
      Sid    = "StartFromThisTemplate"
      Effect = "Allow"
      Action = ["ec2:RunInstances"]
      Resource = concat(
        [
          one(aws_launch_template.worker[*].arn),
          "arn:${local.partition}:ec2:${var.region}::image/${local.ami_id}",
          "${local.ec2}:security-group/${aws_security_group.nodes.id}",
          # these two do not exist yet
          "${local.ec2}:network-interface/*",
          "${local.ec2}:volume/*",
        ],
        [for id in var.worker_subnet_ids : "${local.ec2}:subnet/${id}"],
        [for group in aws_placement_group.workers : "${local.ec2}:placement-group/${group.name}"],
        var.capacity_reservation_id == null ? [] : ["${local.ec2}:capacity-reservation/${var.capacity_reservation_id}"],
        var.spot ? ["${local.ec2}:spot-instances-request/*"] : [],
      )
      Condition = { ArnEquals = local.of_this_template }
    },
    {
      Sid      = "StartWorkersOfThisCluster"
      Effect   = "Allow"
      Action   = ["ec2:RunInstances"]
      Resource = ["${local.ec2}:instance/*"]
      Condition = {
        ArnEquals = local.of_this_template
        StringEquals = {
          "aws:RequestTag/ray-cluster-name" = var.name
          "aws:RequestTag/ray-node-type"    = "worker"
          "ec2:InstanceType"                = var.worker_instance_type
          "ec2:MetadataHttpTokens"          = "required"
        }
      }
    },
    {
      Sid       = "TagWhatIsBeingStarted"
      Effect    = "Allow"
      Action    = ["ec2:CreateTags"]
      Resource  = ["${local.ec2}:instance/*", "${local.ec2}:volume/*"]
      Condition = { StringEquals = { "ec2:CreateAction" = "RunInstances" } }
    },
    {
      # the autoscaler keeps its notes in tags; it may not give its cluster's name to machines of others
      Sid      = "TagWorkersOfThisCluster"
      Effect   = "Allow"
      Action   = ["ec2:CreateTags"]
      Resource = ["${local.ec2}:instance/*"]
      Condition = {
        StringEquals              = { "aws:ResourceTag/ray-cluster-name" = var.name }
        "ForAllValues:StringLike" = { "aws:TagKeys" = ["ray-*", "Name"] }
      }
    },
    {
      # not the head itself, which carries the same cluster's name
      Sid      = "EndWorkersOfThisCluster"
      Effect   = "Allow"
      Action   = ["ec2:TerminateInstances"]
      Resource = ["${local.ec2}:instance/*"]
      Condition = {
        StringEquals = {
          "aws:ResourceTag/ray-cluster-name" = var.name
          "aws:ResourceTag/ray-node-type"    = "worker"
        }
      }
    },
    {
      Sid       = "GiveWorkersTheirRole"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = [aws_iam_role.worker.arn]
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    },
  ]
}

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  assume_role_policy = local.assume_by_ec2
  tags               = local.tags
}

resource "aws_iam_role_policy" "head_node" {
  name = "node"
  role = aws_iam_role.head.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.node_statements, local.registry_statements, [{
      Sid      = "WriteSecret"
      Effect   = "Allow"
      Action   = ["secretsmanager:PutSecretValue"]
      Resource = [aws_secretsmanager_secret.ray.arn]
    }])
  })
}

resource "aws_iam_role_policy" "head_autoscaler" {
  count = local.worker == null ? 0 : 1

  name   = "autoscaler"
  role   = aws_iam_role.head.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.autoscaler_statements })
}

resource "aws_iam_instance_profile" "head" {
  name = "${var.name}-head"
  role = aws_iam_role.head.name
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = local.assume_by_ec2
  tags               = local.tags
}

resource "aws_iam_role_policy" "worker_node" {
  name   = "node"
  role   = aws_iam_role.worker.name
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.node_statements, local.registry_statements) })
}

resource "aws_iam_instance_profile" "worker" {
  name = "${var.name}-worker"
  role = aws_iam_role.worker.name
}
